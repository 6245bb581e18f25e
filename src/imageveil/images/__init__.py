"""Real images in and out."""
