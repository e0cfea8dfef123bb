"""A server that classifies images over HTTP: an ASGI application in front of processes that each hold the model."""
