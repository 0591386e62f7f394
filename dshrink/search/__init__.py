"""Choosing what to shrink, from tables alone."""
