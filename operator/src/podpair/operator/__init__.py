"""The operator turns an InferenceGateway resource into running pairs.

So far: the resource, the objects that it becomes, and `podpair`, which shows both. Nothing here acts on a cluster yet.
"""
