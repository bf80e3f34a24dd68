"""Extracts one metric from another process's metrics, in Prometheus' text format, unchanged.

Invariant: what comes out is whole lines of that metric and nothing else, whatever the other process said.
"""

_PARTS = ("", "_bucket", "_sum", "_count")


def filter_family(text: str, family: str) -> str:
    """Return the lines of a metric family, with the parts of a histogram or summary; empty if it is missing."""
    names = {family + part for part in _PARTS}
    lines = [line for line in text.splitlines() if _name(line) in names]
    return "".join(f"{line}\n" for line in lines)


def _name(line: str) -> str:
    if line.startswith("#"):
        words = line.split(maxsplit=3)
        return words[2] if len(words) > 2 and words[1] in ("HELP", "TYPE") else ""
    return line.partition("{")[0].split(" ", 1)[0]
