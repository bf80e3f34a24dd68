"""The operator turns an InferenceGateway resource into running pairs.

`core` decides and does no I/O, `controller` reconciles, `kube` and `kafka` talk to the API server and to brokers.
"""
