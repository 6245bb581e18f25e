"""How networks are learned."""
