"""The command line: serve, config, token, push."""
