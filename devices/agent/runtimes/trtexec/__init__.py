"""TensorRT on a GPU, through its own trtexec."""
