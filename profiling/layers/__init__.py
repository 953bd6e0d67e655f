"""Where a run's time goes, and what a model computes."""
