"""`podpair`: looks at resources without a cluster."""
