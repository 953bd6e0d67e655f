"""What the log of a search tells."""
