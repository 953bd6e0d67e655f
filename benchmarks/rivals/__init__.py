"""The rivals of the benchmarks: other engines, other ways to train."""
