"""Every `heliograph_` metric, defined once."""
