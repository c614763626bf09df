"""How tight certified bounds are, and what they cost."""
