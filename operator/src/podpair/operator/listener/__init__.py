"""How the operator's ports accept connections: as the gateway's do, with the same two modules."""
