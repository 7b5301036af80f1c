"""The tree of actors: which there are, what each is given, and how they are told apart by role."""
