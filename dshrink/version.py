"""The version of dshrink, read by the build and written into every table."""

__version__ = "0.1.0"
