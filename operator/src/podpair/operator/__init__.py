"""The operator turns an InferenceGateway resource into running pairs. Nothing is in here yet."""
