"""Whether an export computes what the network computes."""
