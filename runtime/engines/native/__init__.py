"""The native engine: packed spikes, sparse weights, C++ (docs/engine.md)."""
