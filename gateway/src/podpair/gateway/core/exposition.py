"""Takes one metric out of another process's metrics, in Prometheus' text format, as it is.

Invariant: what comes out is whole lines of that metric and nothing else, whatever the other process said.
"""

_PARTS = ("", "_bucket", "_sum", "_count")


def only(text: str, family: str) -> str:
    """The lines of a metric family (a histogram's or summary's parts with it); empty where it isn't there."""
    names = {family + part for part in _PARTS}
    lines = [line for line in text.splitlines() if _name(line) in names]
    return "".join(f"{line}\n" for line in lines)


def _name(line: str) -> str:
    if line.startswith("#"):
        words = line.split(maxsplit=3)
        return words[2] if len(words) > 2 and words[1] in ("HELP", "TYPE") else ""
    return line.partition("{")[0].split(" ", 1)[0]
