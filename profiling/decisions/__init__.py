"""What a stored profile decides: budgets, limits, comparisons."""
