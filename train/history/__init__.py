"""The log of a search: its events, what they say about a search, forecast, curves and pictures."""
