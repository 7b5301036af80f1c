"""Wall clocks that can be set while a process runs, by libfaketime where the machine has it (Debian: `libfaketime`).

Only the wall clock moves: the monotonic and the boot clock stay the machine's own, as they do when a real one is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

PLACES: Final = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime", "/usr/lib64/faketime")


def library() -> Path | None:
    return next(
        (found for place in PLACES for found in Path("/").glob(f"{place.removeprefix('/')}/libfaketime.so.1")), None
    )


class WallClock:
    """`environ`: what a process is started with to go by it; nothing where there is no library."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set("+0s")
        found = library()
        self.environ = (
            {
                "LD_PRELOAD": str(found),
                "FAKETIME_TIMESTAMP_FILE": str(file),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DISABLE_SHM": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
            if found
            else {}
        )

    def set(self, by: str) -> None:
        """So far from the machine's time: `+3600s`. In one go, for it may be read at any moment."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(by + "\n")
        fresh.chmod(0o644)
        fresh.rename(self._file)
