"""What several tests need: networks, stand-ins, checks."""
