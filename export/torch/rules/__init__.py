"""Rules that translate modules, functions and tensor methods into nodes of the graph."""
