"""Measuring speed on the machine at hand."""
