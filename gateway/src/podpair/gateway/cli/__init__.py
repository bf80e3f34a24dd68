"""The command line: serve, config, token, push, replay, inspect, metrics."""
