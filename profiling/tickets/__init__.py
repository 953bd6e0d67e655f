"""Tickets of searches side by side."""
