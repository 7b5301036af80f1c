"""What-if runs: the real supervisor trees in virtual time, with scripted traffic and providers, stores in memory."""
