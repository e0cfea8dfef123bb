"""From an image to named predictions."""
