"""TensorRT engines: NVIDIA's packages, and running an engine file."""
