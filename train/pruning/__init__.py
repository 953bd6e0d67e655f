"""Masks, and which weights they keep."""
