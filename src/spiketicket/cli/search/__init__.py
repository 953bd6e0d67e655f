"""The command `snn-search`."""
