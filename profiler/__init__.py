"""What to measure, and turning replies of a device into a latency table."""
