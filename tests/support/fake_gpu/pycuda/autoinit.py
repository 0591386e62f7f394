"""Makes a context of its own in the real package; nothing of ours may import it."""

raise AssertionError("pycuda.autoinit was imported")
