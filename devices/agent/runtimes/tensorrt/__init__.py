"""TensorRT on a GPU, through its Python package."""
