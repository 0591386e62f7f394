"""Merging: the algebra on tensors, the rewriting of a graph, the certificate."""
