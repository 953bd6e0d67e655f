"""The profile of a model: latency, accuracy, throughput."""
