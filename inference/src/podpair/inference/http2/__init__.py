"""HTTP/2 as gRPC needs it, without TLS: the model's container listens at its pod's own address only."""
