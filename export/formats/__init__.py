"""The file formats that a graph can be written in."""
