"""The operator turns an InferenceGateway resource into running pairs. So far: the resource, and `podpair`, which checks it."""
