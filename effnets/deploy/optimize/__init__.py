"""Exact rewrites of a network for inference."""
