"""A store that is away: said once when it goes and once when it is back, with waits that grow between the tries."""

from __future__ import annotations

from typing import Final

import structlog

from heliograph.actors.kernel.clock import Clock

log = structlog.get_logger()
FIRST_S: Final = 0.1
MOST_S: Final = 2.0


class Outage:
    """One actor's view. `events` are named after it: `relay.waits`, `relay.resumed`."""

    def __init__(self, actor: str, clock: Clock) -> None:
        self._actor = actor
        self._clock = clock
        self._began_s: float | None = None
        self._wait_s = FIRST_S

    @property
    def lasts(self) -> bool:
        return self._began_s is not None

    def failed(self, error: Exception) -> float:
        """Count a failed try; answers how many seconds to wait before the next."""
        if self._began_s is None:
            self._began_s = self._clock.boot_s()
            log.warning(f"{self._actor}.waits", error=str(error), kind=type(error).__name__)
        wait_s = self._wait_s * (0.5 + self._clock.random.random() / 2)
        self._wait_s = min(MOST_S, self._wait_s * 2)
        return wait_s

    def over(self) -> None:
        """A try went through."""
        if self._began_s is not None:
            log.info(f"{self._actor}.resumed", waited_s=round(self._clock.boot_s() - self._began_s, 3))
            self._began_s = None
            self._wait_s = FIRST_S
