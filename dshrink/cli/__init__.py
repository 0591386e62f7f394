"""The command line: one file a command, and ``main`` that gathers them."""
