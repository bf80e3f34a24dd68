#!/usr/bin/env bash
# mypy 2.4.1 (mypyc) with msgspec 0.22.0, CPython 3.11.
#
# A class that is made with keyword arguments, such as msgspec.Struct's options, is built by mypyc as an ordinary Python class,
# without a word on the options: they are dropped. The same source then means something else once it is compiled: with
# `eq=False` objects stop being hashable, with `forbid_unknown_fields=True` a decoder takes any member, with `tag="a"` an encoder
# writes none. Nothing is said at the build, and nothing when the module is imported.
#
# Seen:
#   source: hashable True, unknown members refused, tagged b'{"type":"a","x":1}'
#   compiled: hashable False, unknown members taken, tagged b'{"x":1}'
#
# Needs python3 with venv and its headers, and a C compiler. Exits non-zero if it behaves otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install mypy==2.4.1 msgspec==0.22.0 setuptools==84.2.1

cat > structs.py <<'PY'
import msgspec


class Key(msgspec.Struct, eq=False):
    x: int


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class Tagged(msgspec.Struct, tag="a"):
    x: int
PY
cat > seen.py <<'PY'
import sys

import msgspec
import structs

try:
    hash(structs.Key(1))
    hashable = True
except TypeError:
    hashable = False
try:
    msgspec.json.decode(b'{"x":1,"y":2}', type=structs.Strict)
    unknown = "taken"
except msgspec.ValidationError:
    unknown = "refused"
form = "source" if structs.__file__.endswith(".py") else "compiled"
print(f"{form}: hashable {hashable}, unknown members {unknown}, tagged {msgspec.json.encode(structs.Tagged(1))}")
PY
venv/bin/python seen.py > seen
PATH="$work/venv/bin:$PATH" venv/bin/mypyc structs.py > build.log 2>&1 || { tail -5 build.log; exit 1; }
venv/bin/python seen.py >> seen
cat seen
diff seen - <<'SEEN'
source: hashable True, unknown members refused, tagged b'{"type":"a","x":1}'
compiled: hashable False, unknown members taken, tagged b'{"x":1}'
SEEN
