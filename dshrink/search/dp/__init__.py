"""Which activations stay and which convolutions merge, by exact dynamic programming on two tables.

After Kim et al. (ICML 2023): latencies T(i, j) of merged spans and importances I(i, j, a, b).
"""
