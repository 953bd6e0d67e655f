"""Inspection of model files of any format. Needs no torch."""
