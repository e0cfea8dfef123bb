"""From a trained network to what is shipped: exact rewrites of it."""
