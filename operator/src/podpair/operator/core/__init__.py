"""Decides what a gateway needs, from its resource alone: no cluster, broker, clock or socket is in reach here."""
