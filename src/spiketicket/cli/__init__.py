"""The four commands: all that knows typer and rich. Nothing imports it."""
