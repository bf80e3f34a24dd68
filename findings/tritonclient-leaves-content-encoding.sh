#!/usr/bin/env bash
# tritonclient 2.73.0 (Python, HTTP): `infer(headers=h, request_compression_algorithm="gzip")` writes Content-Encoding and
# Inference-Header-Content-Length into the dictionary that it was given. Who keeps one dictionary for all calls, say with its
# Authorization, sends `Content-Encoding: gzip` with the next body, which isn't packed: a server that decodes it refuses it.
#
# Seen:
#   after the first call: ['Authorization', 'Content-Encoding', 'Inference-Header-Content-Length']
#   the second call says Content-Encoding: gzip, and its body begins with b'{"in'
#
# Needs python3 with venv. Exits non-zero if it behaves otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install "tritonclient[http]==2.73.0"
cat > run.py <<'PY'
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import tritonclient.http as triton

seen = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        seen.append((self.headers["Content-Encoding"], body[:4]))
        answer = b'{"model_name": "m", "outputs": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = triton.InferenceServerClient(f"127.0.0.1:{server.server_port}")
tensor = triton.InferInput("x", [1], "FP32")
tensor.set_data_from_numpy(np.zeros(1, np.float32))
headers = {"Authorization": "Bearer t"}
client.infer("m", [tensor], headers=headers, request_compression_algorithm="gzip")
print("after the first call:", list(headers))
client.infer("m", [tensor], headers=headers)
coding, start = seen[1]
print(f"the second call says Content-Encoding: {coding}, and its body begins with {start}")
sys.exit(0 if coding == "gzip" and start == b'{"in' else 1)
PY
venv/bin/python run.py
