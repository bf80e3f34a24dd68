"""The command line: `podpair-inference`."""
