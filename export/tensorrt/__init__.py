"""Build TensorRT engines from the bundle's ONNX files, by `tensorrt` or `tensorrt-rtx`."""
