"""The command `snn-export`."""
