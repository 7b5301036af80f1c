"""Loads structlog without rich.

structlog loads rich wherever it is installed, to draw tracebacks, of which we write none. Imported before anything else
that logs, by the command: rich and what it needs in turn are a tenth of all that a supervisor holds.
"""

from __future__ import annotations

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # as importing it would have failed
    import structlog  # noqa: F401

    del sys.modules["rich"]
