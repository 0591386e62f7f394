"""Latency tables in the formats that other projects read and write."""
