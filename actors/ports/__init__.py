"""What actors ask of the outside: protocols in prose. Adapters implement them; in-memory twins pass the same tests."""
