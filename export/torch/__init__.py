"""Torch network -> sparse graph."""
