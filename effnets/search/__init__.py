"""What makes a network efficient: studies of layers, and networks scaled to a budget."""
