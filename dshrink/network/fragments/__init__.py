"""ONNX nodes for the operators that an ``OpSpec`` has no words for."""
