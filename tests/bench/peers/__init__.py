"""What podpair is measured beside: each peer in a folder of its own, pinned, built and started by `building` and `gateways`."""
