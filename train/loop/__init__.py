"""The parts of a training: batches, iterations, processes, time limit."""
