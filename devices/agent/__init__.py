"""What runs on the device: one JSON request a line in, one JSON reply a line out.

The folder needs nothing but the standard library of Python 3.6: it is started by its path
(``python3 .../agent/__main__.py``) and imports itself relatively, so that it can be copied to any
device under any name.  The host imports the modules that both sides must agree on.
"""
