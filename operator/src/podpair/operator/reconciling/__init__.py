"""Brings the cluster to what the resources say, again and again."""
