"""From a checkpoint to an ONNX, from an ONNX to INT8 and to a TensorRT engine."""
