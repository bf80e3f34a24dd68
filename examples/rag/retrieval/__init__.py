"""What the two Python models of the example share: chunks, embeddings, the document store, ranking, extractive answers."""
