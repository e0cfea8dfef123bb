"""From a network to verified files."""
