"""The cost of a search."""
