"""Find the contract of an ONNX file from its graph and from what the caller says."""
