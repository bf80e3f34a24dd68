"""What of the charts follows from something else: `make crd` writes it, and a test finds it up to date.

- The CRD stands in podpair-crds, and again in podpair-operator: `helm install` of that alone, from a plain checkout,
  must be enough, and a dependency would have to be fetched or be a link that Helm warns of.
- The schema of inference-gateway's values is the resource's, so that it can't drift from it.
- The table in a README is what values.yaml says in the comments that begin with `# --`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from podpair.operator.core.crd import crd
from podpair.operator.core.json_schema import spec_schema

CHARTS = Path(__file__).parent
_TABLE = re.compile(r"(<!-- values -->\n).*?(<!-- /values -->\n)", re.DOTALL)
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(.*)$")


def generated() -> dict[Path, str]:
    """The files and what they must hold."""
    manifest = yaml.safe_dump(crd(), sort_keys=False, width=120, allow_unicode=True)
    files = {
        CHARTS / "podpair-crds/templates/crd.yaml": manifest,
        CHARTS
        / "podpair-operator/templates/crd.yaml": f"{{{{- if .Values.crds.install }}}}\n{manifest}{{{{- end }}}}\n",
        CHARTS / "inference-gateway/values.schema.json": json.dumps(_values_schema(), indent=1, ensure_ascii=False)
        + "\n",
    }
    for chart in ("podpair-operator", "inference-gateway"):
        readme = CHARTS / chart / "README.md"
        table = _table(CHARTS / chart / "values.yaml")
        files[readme] = _TABLE.sub(lambda found, rows=table: found[1] + rows + found[2], readme.read_text())
    return files


def _values_schema() -> dict[str, Any]:
    """The chart's own values, and beside them the fields of the resource's spec."""
    schema: dict[str, Any] = json.loads((CHARTS / "inference-gateway/values.own.json").read_text())
    spec = spec_schema()
    # What the chart itself fills in, from `secrets`: its templates say so where neither is given.
    spec["properties"]["gateway"]["required"].remove("auth")
    spec["properties"]["kafka"]["properties"]["sasl"]["required"].remove("secretName")
    schema["properties"] |= spec["properties"]
    schema["required"] = spec["required"]
    return schema


def _table(values: Path) -> str:
    text = values.read_text()
    rows = ["| value | default | |\n| --- | --- | --- |\n"]
    defaults = yaml.safe_load(text)
    for path, words in described(text):
        value: Any = defaults
        for name in path.split("."):
            value = value[name]
        shown = json.dumps(value, ensure_ascii=False)
        rows.append(f"| `{path}` | `{shown}` | {words.replace('|', chr(92) + '|')} |\n")
    return "".join(rows)


def described(text: str) -> Iterator[tuple[str, str]]:
    """The values that a comment `# --` describes, as dotted paths, with its words."""
    words: list[str] = []
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            words = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and words:
            words.append(stripped.removeprefix("#").strip())
        elif key := _KEY.match(line):
            depth = len(key[1])
            above = [one for one in above if one[0] < depth] + [(depth, key[2])]
            if words:
                yield ".".join(name for _, name in above), " ".join(words)
            words = []


def main() -> None:
    for path, text in generated().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
