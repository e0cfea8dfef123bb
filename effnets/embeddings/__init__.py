"""Photographs as vectors: embed them, find similar ones, and find copies of the same photograph."""
