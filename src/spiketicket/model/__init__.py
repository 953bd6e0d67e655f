"""The model file: its names, writer, reader and types of values (docs/formats.md)."""
