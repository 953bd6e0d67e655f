"""The four commands. Only this package knows typer and rich, and no other package imports it."""
