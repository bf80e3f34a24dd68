"""Asks three times with tritonclient, whose HTTP client changes the headers that it is given: prints what came of each as JSON.

triton_headers.py HOST:PORT TOKEN: packed, not packed with the same headers, and not packed with new ones.
"""

import json
import sys

import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1])
tensor = triton.InferInput("pixels", [1, 64], "FP32")
tensor.set_data_from_numpy(np.zeros((1, 64), np.float32))
headers = {"Authorization": f"Bearer {sys.argv[2]}"}
fresh = dict(headers)
told = []
for given, packed in ((headers, "gzip"), (headers, None), (fresh, None)):
    try:
        client.infer("digits", [tensor], headers=given, request_compression_algorithm=packed)
        told.append("ok")
    except triton.InferenceServerException as error:
        told.append(str(error))
print(json.dumps(told))  # noqa: T201
