"""What more supervisors cost: messages for each second of CPU with 1, 2, 4 and 8, and what an idle one takes.

    python -m tests.bench.scale [--supervisors 1,2,4,8] [--rate 600] [--seconds 15]

All share one provider at its rate, so each round does the same work. CPU is that of all supervisors and of both stores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psycopg

from heliograph.gateway.cli.embedded import free_port
from tests.bench.__main__ import Bench, cpu_seconds
from tests.bench.memory import fill_backlog
from tests.support.services import PostgresServer, RedisServer, wait_until

ROLES: Final = "delivery,dead-letters"
SETTLE_S: Final = 5.0
SENT: Final = "SELECT coalesce(sum(entered), 0)::bigint FROM tallies WHERE counted = 'sent'"


class Round:
    """So many supervisors, and what they and the stores have used."""

    def __init__(self, bench: Bench, database: str, supervisors: int) -> None:
        self._bench = bench
        self._database = database
        self._stack = ExitStack()
        self._pids = [
            self._stack.enter_context(bench.running(ROLES, monitor=free_port(None))).pid for _ in range(supervisors)
        ]

    def __enter__(self) -> Round:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def watched(self, seconds: float) -> tuple[float, dict[str, float]]:
        """Messages sent, and CPU seconds by whose they are."""
        sent, used = self._sent(), self._used()
        time.sleep(seconds)
        return self._sent() - sent, {name: each - used[name] for name, each in self._used().items()}

    def _used(self) -> dict[str, float]:
        stores = {name: cpu_seconds(pid) for name, pid in self._bench.stores.items()}
        return {"supervisors": sum(map(cpu_seconds, self._pids))} | stores

    def _sent(self) -> int:
        with psycopg.connect(self._database) as connection:
            [[sent]] = connection.execute(SENT).fetchall()
        return int(sent)

    def works(self) -> None:
        before = self._sent()
        wait_until(lambda: self._sent() > before, "something is sent", within_s=180)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--supervisors", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4, 8])
    parser.add_argument("--rate", type=int, default=600, help="of the provider, a second")
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    for supervisors in options.supervisors:
        postgres, redis = PostgresServer(durable=True), RedisServer(durable=True)
        try:
            with tempfile.TemporaryDirectory(prefix="heliograph-bench-") as folder, postgres.fresh() as database:
                bench = Bench(Path(folder), database, postgres, redis, rate=options.rate)
                with Round(bench, database, supervisors) as these:
                    time.sleep(SETTLE_S)
                    _, idle = these.watched(options.seconds)
                # More than what can be sent meanwhile; an emptied Redis is filled at once.
                fill_backlog(database, round(options.rate * (options.seconds + 6 * SETTLE_S)))
                redis.flush()
                with Round(bench, database, supervisors) as these:
                    these.works()
                    time.sleep(SETTLE_S)
                    sent, used = these.watched(options.seconds)
        finally:
            postgres.remove()
            redis.remove()
        row = {
            "supervisors": supervisors,
            "idle_share_of_a_core": round(idle["supervisors"] / supervisors / options.seconds, 4),
            "idle_stores_share": round((idle["postgres"] + idle["redis"]) / options.seconds, 4),
            "msgs_per_s": round(sent / options.seconds, 1),
            "msgs_per_cpu_s": round(sent / sum(used.values()), 1),
            **{f"{name}_us_per_msg": round(1e6 * each / max(sent, 1), 1) for name, each in used.items()},
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
