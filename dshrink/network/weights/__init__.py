"""Weights as people have them: files of many forms, and how they fit a network."""
