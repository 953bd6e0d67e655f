"""Engine `cuda`: a fused kernel per layer, compiled for the present GPU when a session opens, in one CUDA graph."""
