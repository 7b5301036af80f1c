"""What an actor is, and how one is kept alive. Knows trio, and of ours only values and policies."""
