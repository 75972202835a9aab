"""Trace a torch step into ONNX graphs."""
