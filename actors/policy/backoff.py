"""Exponential backoff with full jitter: a uniform draw between nothing and a bound that doubles with each pass.

The jitter is over the whole range, so that messages which failed together do not come back together
(M. Brooker, "Exponential Backoff and Jitter", 2015).
"""

from __future__ import annotations


def full_jitter(passes: int, *, base_s: float, cap_s: float, draw: float) -> float:
    """Seconds to wait after `passes` (at least 1) fruitless walks over the route; `draw` is in [0, 1).

    >>> full_jitter(3, base_s=1.0, cap_s=300.0, draw=0.5)
    2.0
    >>> full_jitter(50, base_s=1.0, cap_s=300.0, draw=0.5)
    150.0
    """
    return draw * min(cap_s, base_s * 2.0 ** min(passes - 1, 30))
