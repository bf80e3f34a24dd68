"""Decides what a resource needs and what its status is: pure functions, without cluster, broker, clock or socket."""
