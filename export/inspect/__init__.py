"""What is in a model file of any format. Needs no torch."""
