"""Decisions, pure: no clock, no chance, no I/O inside; time and draws come in as arguments."""
