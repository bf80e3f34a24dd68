"""The gateways' edge: what each pod tells of its load."""
