"""Verification that an export computes what the network computes."""
