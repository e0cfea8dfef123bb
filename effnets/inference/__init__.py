"""From an image to named predictions: image, transform, predictor, labels."""
