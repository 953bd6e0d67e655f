"""Training on NVIDIA GPUs: fused kernels for batch norm and neurons, and iterations as CUDA graphs."""
