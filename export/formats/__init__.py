"""File formats that a graph can be written in, one module each."""
