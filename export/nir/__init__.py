"""NIR graphs, read and written (docs/nir.md)."""
