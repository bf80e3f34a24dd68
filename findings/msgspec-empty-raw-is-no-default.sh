#!/usr/bin/env bash
# msgspec 0.22.0, CPython 3.11.
#
# A Struct with `omit_defaults=True` and a field `value: Raw = Raw(b"")` leaves the field out while it holds the very object that is
# the default. An equal one, such as a deep copy of the same struct holds, is written: as nothing, so that what comes out is no JSON,
# without an error. msgspec's own decoder refuses it.
#
# Seen:
#   default: {}
#   equal to it: {"value":}
#   deep copy of the default: {"value":}
#   read back: JSON is malformed: invalid character (byte 9)
#
# Needs python3 with venv. Exits non-zero if it behaves otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install msgspec==0.22.0

cat > seen.py <<'PY'
import copy

import msgspec
from msgspec import Raw


class Record(msgspec.Struct, omit_defaults=True):
    value: Raw = Raw(b"")


made = {"default": Record(), "equal to it": Record(Raw(b"")), "deep copy of the default": copy.deepcopy(Record())}
for name, record in made.items():
    print(f"{name}: {msgspec.json.encode(record).decode()}")
try:
    msgspec.json.decode(msgspec.json.encode(Record(Raw(b""))), type=Record)
except msgspec.DecodeError as error:
    print(f"read back: {error}")
PY
venv/bin/python seen.py > seen
cat seen
diff seen - <<'SEEN'
default: {}
equal to it: {"value":}
deep copy of the default: {"value":}
read back: JSON is malformed: invalid character (byte 9)
SEEN
