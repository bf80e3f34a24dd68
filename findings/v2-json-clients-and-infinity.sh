#!/usr/bin/env bash
# tritonclient 2.73.0 (HTTP) and kserve 0.21.0 (InferenceRESTClient), FP32 tensors in V2's JSON.
#
# No form of NaN and infinity that either project writes is read by both clients: tritonclient sends and reads the bare tokens NaN
# and Infinity, which fail the whole answer in KServe's client (orjson); null is NaN in both, also where it stood for infinity;
# and KServe's client sends null for infinity, without a warning. The strings "NaN", "Infinity", "-Infinity", which V2 nowhere
# mentions (protobuf's JSON has them), are valid JSON and are read exactly by both.
#
# Seen, of [NaN, Infinity, -Infinity, 1.5]:
#              tritonclient           kserve
#   tokens     nan inf -inf 1.5       InvalidInput
#   null       nan nan nan 1.5        nan nan nan 1.5
#   strings    nan inf -inf 1.5       nan inf -inf 1.5
#   sends      [NaN,Infinity,-Infinity,1.5]   [null,null,null,1.5]
#
# Needs python3 with venv. Exits non-zero if it behaves otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for name in triton kserve; do python3 -m venv $name; done
triton/bin/pip -q --disable-pip-version-check install 'tritonclient[http]==2.73.0'
kserve/bin/pip -q --disable-pip-version-check install 'kserve==0.21.0'
cat > server.py <<'PY'
"""Answers each model's name with that form; keeps what was sent."""
import http.server
import re

FORMS = {
    "tokens": "[NaN,Infinity,-Infinity,1.5]",
    "null": "[null,null,null,1.5]",
    "strings": '["NaN","Infinity","-Infinity",1.5]',
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        print(re.search(r'"data":(\[[^]]*\])', body)[1], flush=True)
        form = self.path.split("/")[3]
        answer = (
            '{"model_name":"%s","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[4],"data":%s}]}'
            % (form, FORMS[form])
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
PY
cat > triton.py <<'PY'
import sys

import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
for form in ("tokens", "null", "strings"):
    x = http.InferInput("x", [4], "FP32")
    x.set_data_from_numpy(np.array([np.nan, np.inf, -np.inf, 1.5], np.float32), binary_data=False)
    found = client.infer(form, [x], outputs=[http.InferRequestedOutput("y", binary_data=False)]).as_numpy("y")
    print("triton", form, *found.tolist())
PY
cat > kserve.py.txt <<'PY'
import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


async def main():
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        for form in ("tokens", "null", "strings"):
            x = InferInput("x", [4], "FP32")
            x.set_data_from_numpy(np.array([np.nan, np.inf, -np.inf, 1.5], np.float32), binary_data=False)
            try:
                request = InferRequest(form, [x])
                found = await client.infer(f"http://127.0.0.1:{sys.argv[1]}", request, model_name=form)
                print("kserve", form, *found.outputs[0].as_numpy().tolist())
            except Exception as error:
                print("kserve", form, type(error).__name__)


asyncio.run(main())
PY
python3 server.py > sent &
server=$!
trap 'kill $server; rm -rf "$work"' EXIT
until port=$(head -1 sent) && [ -n "$port" ]; do sleep 0.1; done
{ triton/bin/python triton.py "$port"; kserve/bin/python kserve.py.txt "$port" 2>/dev/null; } | grep -E '^(triton|kserve) ' > read.txt
tail -n +2 sent | sort -u > sent.txt
cat read.txt sent.txt
diff read.txt - <<'SEEN'
triton tokens nan inf -inf 1.5
triton null nan nan nan 1.5
triton strings nan inf -inf 1.5
kserve tokens InvalidInput
kserve null nan nan nan 1.5
kserve strings nan inf -inf 1.5
SEEN
LC_ALL=C sort sent.txt | diff - <(printf '%s\n' '[NaN,Infinity,-Infinity,1.5]' '[null,null,null,1.5]' | LC_ALL=C sort)
