"""Latency tables: what a piece costs, on which device, and how right a prediction from it is."""
