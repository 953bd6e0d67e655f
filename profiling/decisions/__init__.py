"""Decisions from a stored profile: budgets, limits, comparisons."""
