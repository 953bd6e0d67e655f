"""The networks and tickets that the benchmarks measure, and the forms in which they are deployed."""
