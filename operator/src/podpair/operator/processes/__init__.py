"""Runs functions in child processes: what they call can end its process, but not the operator's."""
