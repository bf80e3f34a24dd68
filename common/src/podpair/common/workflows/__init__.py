"""Workflows as they are declared beside models, in a `workflow.yaml`."""
