"""Ways to run a finished scheme elsewhere."""
