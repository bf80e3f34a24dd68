"""Chunks a document as the model `ingest` does: its text at standard input, a list of chunks at standard output, both as JSON."""

import json
import sys

from retrieval.chunks import chunks_of, sentences_of
from retrieval.pieces import tokenizer

pieces = tokenizer()
found = [
    {
        "heading": chunk.heading,
        "anchor": chunk.anchor,
        "text": chunk.text,
        "tokens": len(pieces.encode(chunk.embedded).ids),
        "sentences": sentences_of(chunk.text),
    }
    for chunk in chunks_of(json.load(sys.stdin))
]
json.dump(found, sys.stdout)
