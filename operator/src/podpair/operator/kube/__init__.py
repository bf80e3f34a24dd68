"""The edge to the Kubernetes API: requests, informers, leader election, events."""
