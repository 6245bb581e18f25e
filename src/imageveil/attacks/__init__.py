"""Attempts to get plain images back from protected ones."""
