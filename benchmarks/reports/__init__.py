"""Results of the benchmarks, and their reports."""
