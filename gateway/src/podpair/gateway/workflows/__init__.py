"""Runs workflows: the edges of `core.workflows`, which decides what is done."""
