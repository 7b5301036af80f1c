"""What a provider's actor is made of, besides policies."""
