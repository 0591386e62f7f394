"""Latency tables: what a piece costs, on which device, and the error of predictions from it."""
