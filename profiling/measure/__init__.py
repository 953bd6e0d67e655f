"""Timing, memory, and what disturbs them."""
