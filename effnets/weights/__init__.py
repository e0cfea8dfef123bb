"""Weights: files, the dialects of other frameworks, and the strict merge into a network."""
