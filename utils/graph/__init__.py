"""Reading and rewriting an ONNX graph."""
