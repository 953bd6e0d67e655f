"""Choices that NIR leaves open: the length of a timestep, and the simulator that is followed."""

NIR_DT = 1e-4  # seconds per timestep; what snnTorch, Rockpool and NIR's own examples use
DIALECTS = ("nir", "snntorch", "norse")  # the simulator that is followed
