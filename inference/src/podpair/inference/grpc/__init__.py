"""The V2 protocol and podpair.v1 over gRPC: a thin edge that holds no decisions."""
