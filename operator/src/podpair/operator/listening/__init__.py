"""How the operator's ports take connections: as the gateway's do, by the same two modules."""
