"""Timing, memory, and the noise of the machine."""
