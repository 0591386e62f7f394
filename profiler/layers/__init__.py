"""Measuring layers that belong to no network: their plan, their rounds, their table."""
