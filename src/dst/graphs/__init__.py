"""Tools for ONNX graphs that export, quantize and evaluate share."""
