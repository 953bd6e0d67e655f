"""Export: torch module -> sparse graph -> one ONNX file, verified."""
