"""Spiking networks and their parts: neurons, batch norm, convolutions, GPU kernels."""
