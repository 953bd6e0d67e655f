"""Masks, the strategies that choose which weights they keep, and masks that grow during a training."""
