"""Clients of the inference container, in the Open Inference Protocol: it may be any V2 server."""
