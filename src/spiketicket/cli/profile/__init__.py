"""The command `snn-profile`."""
