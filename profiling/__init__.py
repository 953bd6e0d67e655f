"""Measure what a model costs, timestep by timestep."""
