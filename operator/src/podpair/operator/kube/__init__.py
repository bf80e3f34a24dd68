"""The edge to the Kubernetes API: requests, caches that watches keep, the Lease, events."""
