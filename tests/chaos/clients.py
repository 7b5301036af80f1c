"""Clients that post, through any gateway, and remember every 202."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Final

import httpx

KEYED: Final = 0.7
"""So many of the requests carry an Idempotency-Key, and are repeated until they are answered 202."""
AGAIN_S: Final = 0.3
ANSWER_WITHIN_S: Final = 4.0
SIZES: Final = (1, 1, 1, 5, 20)
FILL: Final = 100
PRIORITIES: Final = ("urgent", "normal", "normal", "bulk")
THREADS: Final = 6


class Clients:
    """`accepted`: message id to recipient. `answers`: how often each status came; 0 is none."""

    def __init__(self, urls: Sequence[str], key: str, posted: float, seed: int) -> None:
        self.accepted: dict[str, str] = {}
        self.answers: Counter[int] = Counter()
        self.odd: list[str] = []
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {key}"}
        self._pause_s = THREADS * (sum(SIZES) / len(SIZES)) / posted
        self._numbers = itertools.count(7_000_000_000)
        self._lock = threading.Lock()
        self._enough, self._no_more = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._post_on, args=(f"{seed}/{n}",)) for n in range(THREADS)]

    def fill(self, count: int) -> None:
        """A backlog, while all is well."""
        with httpx.Client(headers=self._headers, timeout=60) as http:
            for _ in range(0, count, FILL):
                people = [f"+91{next(self._numbers)}" for _ in range(FILL)]
                body = {"messages": [{"channel": "sms", "to": to, "text": f"Hello {to}"} for to in people]}
                once = {"Idempotency-Key": str(uuid.uuid4())}
                while not self._accepts(http, self._urls[0] + "/v1/messages/batch", body, once, people):
                    time.sleep(AGAIN_S)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Nothing new; what is repeated goes on until it is answered."""
        self._enough.set()

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def leave(self) -> None:
        self._enough.set()
        self._no_more.set()
        for thread in self._threads:
            thread.join()

    def _post_on(self, seed: str) -> None:
        draw = random.Random(seed)
        with httpx.Client(headers=self._headers, timeout=ANSWER_WITHIN_S) as http:
            while not self._enough.wait(draw.expovariate(1 / self._pause_s)):
                self._post(http, draw)

    def _post(self, http: httpx.Client, draw: random.Random) -> None:
        with self._lock:
            people = [f"+91{next(self._numbers)}" for _ in range(draw.choice(SIZES))]
        priority = draw.choice(PRIORITIES)
        messages = [{"channel": "sms", "to": to, "text": f"Hello {to}", "priority": priority} for to in people]
        path, body = (
            ("/v1/messages", messages[0]) if len(people) == 1 else ("/v1/messages/batch", {"messages": messages})
        )
        keyed = draw.random() < KEYED
        headers = {"Idempotency-Key": str(uuid.UUID(int=draw.getrandbits(128)))} if keyed else {}
        while not self._no_more.is_set():
            if self._accepts(http, draw.choice(self._urls) + path, body, headers, people) or not keyed:
                return
            self._no_more.wait(AGAIN_S)

    def _accepts(
        self, http: httpx.Client, url: str, body: object, headers: dict[str, str], people: Sequence[str]
    ) -> bool:
        try:
            answer = http.post(url, json=body, headers=headers)
        except httpx.TransportError:
            self._count(0)
            return False
        self._count(answer.status_code)
        if answer.status_code == 202:
            said = answer.json()
            with self._lock:
                for item, to in zip(said.get("data", [said]), people, strict=True):
                    if "id" in item:
                        self.accepted[item["id"]] = to
                    else:
                        self.odd.append(f"an item of a batch was answered {item}")
            return True
        if answer.status_code not in (409, 429, 503):
            self.odd.append(f"answered {answer.status_code}: {answer.text[:200]}")
            return True
        return False

    def _count(self, status: int) -> None:
        with self._lock:
            self.answers[status] += 1
