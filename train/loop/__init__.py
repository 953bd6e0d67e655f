"""One training: batches, iterations, processes."""
