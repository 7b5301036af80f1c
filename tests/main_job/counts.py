"""Four counts of the same messages: at the receiving servers, in the API, in PostgreSQL, in the metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import httpx
import psycopg

_SERIES: Final = re.compile(r"^(heliograph_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
# A message's recipient and tenant lie beside its state.
ROWS: Final = "SELECT m.id, m.state, c.recipient FROM messages m JOIN contents c USING (id)"
ATTEMPTS: Final = "SELECT provider, count(*) FROM attempts WHERE outcome = 'accepted' GROUP BY provider"
LETTERS: Final = "SELECT reason, count(*) FROM dead_letters WHERE state = 'open' GROUP BY reason"


class Counting(Protocol):
    """A receiving server: how often it took, and refused for good, a message to whom."""

    name: str

    def taken(self) -> Counter[str]: ...

    def refused(self) -> Counter[str]: ...


class Api:
    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def get(self, path: str, **query: str) -> Any:
        return self._http.get(path, params=query).raise_for_status().json()

    def all(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """A whole list, page by page."""
        page = self.get(path, limit="200", **query)
        yield from page["data"]
        while page["has_more"]:
            page = self.get(path, limit="200", cursor=page["next_cursor"], **query)
            yield from page["data"]

    def close(self) -> None:
        self._http.close()


@dataclass
class Metrics:
    """The sum over all supervisors of what each counted by itself."""

    series: list[tuple[str, dict[str, str], float]]

    @classmethod
    def read(cls, urls: Sequence[str]) -> Metrics:
        text = "\n".join(httpx.get(url, timeout=30).raise_for_status().text for url in urls)
        found = [(m[1], dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in _SERIES.finditer(text)]
        return cls(found)

    def by(self, name: str, label: str, **labels: str) -> Counter[str]:
        counts: Counter[str] = Counter()
        for series, own, value in self.series:
            if series == f"heliograph_{name}" and labels.items() <= own.items():
                counts[own.get(label, "")] += int(value)
        return +counts


@dataclass
class Counts:
    """`state` and `recipient` by message, as the API has them."""

    taken: Mapping[str, Counter[str]]
    refused: Counter[str]
    state: Mapping[str, str]
    recipient: Mapping[str, str]
    rows: Mapping[str, tuple[str, str]]
    accepted_attempts: Counter[str]
    open_letters: Counter[str]
    stats: Mapping[str, Any]
    metrics: Metrics
    disagreements: list[str] = field(default_factory=list)

    @classmethod
    def take(cls, servers: Sequence[Counting], api: Api, postgres_url: str, metrics_urls: Sequence[str]) -> Counts:
        messages = list(api.all("/v1/messages"))
        with psycopg.connect(postgres_url) as connection:
            rows = {i: (state, to) for i, state, to in connection.execute(ROWS)}
            attempts = Counter(dict(connection.execute(ATTEMPTS).fetchall()))
            letters = Counter(dict(connection.execute(LETTERS).fetchall()))
        return cls(
            taken={server.name: server.taken() for server in servers},
            refused=sum((server.refused() for server in servers), Counter()),
            state={m["id"]: m["state"] for m in messages},
            recipient={m["id"]: m["to"] for m in messages},
            rows=rows,
            accepted_attempts=attempts,
            open_letters=letters,
            stats=api.get("/v1/stats"),
            metrics=Metrics.read(metrics_urls),
        )

    def of(self, state: str) -> Counter[str]:
        """Messages in this state, by recipient."""
        return Counter(self.recipient[i] for i, s in self.state.items() if s == state)

    @property
    def all_taken(self) -> Counter[str]:
        return sum(self.taken.values(), Counter())

    def in_stats(self, state: str) -> int:
        return sum(states[state] for states in self.stats["messages"].values())

    def compare(self, posted: Counter[str], *, failed_so_far: int) -> None:
        """`failed_so_far`: how often a message came to `failed`, ever."""
        sent, failed = self.of("sent"), self.of("failed")
        by_provider = Counter({name: taken.total() for name, taken in self.taken.items()})
        self._same("every posted message is in the API", Counter(self.recipient.values()), posted)
        self._same("every message is sent or failed", sent + failed, posted)
        self._same("the servers took what is sent, each recipient as often as it was written to", self.all_taken, sent)
        self._same("PostgreSQL has the API's messages and states", self.rows, {
            i: (state, self.recipient[i]) for i, state in self.state.items()
        })  # fmt: skip
        self._same("accepted attempts in PostgreSQL, by provider", +self.accepted_attempts, +by_provider)
        self._same(
            "accepted attempts in the metrics, by provider",
            self.metrics.by("attempts_total", "provider", outcome="accepted"),
            +by_provider,
        )
        self._same("sent in the stats", self.in_stats("sent"), sent.total())
        self._same("failed in the stats", self.in_stats("failed"), failed.total())
        self._same("sent in the metrics", self.metrics.by("messages_total", "state")["sent"], sent.total())
        self._same("ever failed in the metrics", self.metrics.by("messages_total", "state")["failed"], failed_so_far)
        self._same("open dead letters in PostgreSQL", self.open_letters.total(), failed.total())
        self._same("open dead letters in the metrics", self.metrics.by("dead_letters", "reason"), +self.open_letters)
        self._same("messages unaccounted for", self.metrics.by("accounting_drift", "").total(), 0)

    def _same(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.disagreements.append(f"{what}: {_short(found)}, and it should be {_short(wanted)}")

    def table(self) -> list[str]:
        states = self.metrics.by("messages_total", "state")
        in_rows = Counter(state for state, _ in self.rows.values())
        sent, failed = self.of("sent").total(), self.of("failed").total()
        lines = [
            f"  {'':<10}{'servers':>10}{'API':>10}{'stats':>10}{'PostgreSQL':>12}{'metrics':>10}",
            f"  {'sent':<10}{self.all_taken.total():>10}{sent:>10}{self.in_stats('sent'):>10}"
            f"{in_rows['sent']:>12}{states['sent']:>10}",
            f"  {'failed':<10}{'':>10}{failed:>10}{self.in_stats('failed'):>10}{in_rows['failed']:>12}"
            f"{self.metrics.by('dead_letters', 'reason').total():>10}",
        ]
        for name, taken in self.taken.items():
            metric = self.metrics.by("attempts_total", "provider", outcome="accepted")[name]
            lines.append(
                f"  {name:<10}{taken.total():>10}{'':>10}{'':>10}{self.accepted_attempts[name]:>12}{metric:>10}"
            )
        return lines


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}… ({len(text)} characters)"
