"""The inference half of a pair: it batches and runs a model, and knows nothing of sessions or brokers."""
