"""Workflow instances as data: their records, their state, and what follows from what happens to them."""
