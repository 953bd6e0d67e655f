"""The time of each layer, and the operations of a model."""
