"""What runs without torch: images to arrays, labels, and the engines that execute exported models."""
