"""The fastest way to run a model on this machine, chosen by measurement."""
