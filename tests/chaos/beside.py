"""A look at what goes on, from a thread beside a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(look_on: Callable[[threading.Event], None]) -> Iterator[None]:
    """`look_on` runs in a thread of its own until the event is set, which is at the end."""
    end = threading.Event()
    thread = threading.Thread(target=look_on, args=(end,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(10)
