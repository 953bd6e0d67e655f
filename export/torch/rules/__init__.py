"""What modules, functions and tensor methods become in the graph."""
