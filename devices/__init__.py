"""What a device is, and how to run something on it."""
