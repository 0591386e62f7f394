"""Measuring I(i, j, a, b) of Kim et al. (ICML 2023): what removed activations cost in accuracy."""
