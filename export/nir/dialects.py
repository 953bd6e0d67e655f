"""What NIR leaves open: the length of a timestep, and whose simulator is followed."""

NIR_DT = 1e-4  # seconds per timestep; what snnTorch, Rockpool and NIR's own examples use
DIALECTS = ("nir", "snntorch", "norse")  # whose simulator is followed where NIR is open
