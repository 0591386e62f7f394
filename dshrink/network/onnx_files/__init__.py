"""Networks of ONNX files: read as graphs of torch, with what dshrink has no layer for kept."""
