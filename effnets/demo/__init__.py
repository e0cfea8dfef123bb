"""What ``effnets demo`` does: pictures drawn by code, and the steps from them to a network that is ready to ship."""
