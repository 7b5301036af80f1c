"""The values that the whole project speaks in: frozen, without clock, chance or I/O."""
