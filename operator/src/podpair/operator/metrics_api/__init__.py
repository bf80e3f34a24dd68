"""`external.metrics.k8s.io`, served to autoscalers: the server, its certificate, its APIService."""
