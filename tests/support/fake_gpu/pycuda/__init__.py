"""A strict fake of pycuda 2020.1 and later: no name that those lack.  See driver.py."""

VERSION = (2022, 2, 2)
VERSION_STATUS = ""
VERSION_TEXT = "2022.2.2"
