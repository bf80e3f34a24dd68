"""Checks the house's language, for `make lint`.

    language.py [PREFIX ...]        only of paths that begin with one of these, such as gateway/

A function's docstring begins with a verb (PEP 257), a module is named for the thing in it, a few words that readers
stumbled over stay away from code and pages, prose is wrapped, modules and functions are bounded, and a test says why it
sleeps. It prints a line for each fault, and exits with 1 if there is one.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(ROOT.glob("*/src/podpair/**/*.py"))
CODE = [*SOURCES, *sorted(ROOT.glob("tests/**/*.py"))]
PAGES = [
    *map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

#: Pages that a command prints.
GENERATED = {"configuration.md", "metrics.md", "resource.md", "client-reference.md"}
WIDTH = 100
MODULE, FUNCTION = 400, 60  # lines
PARAMETERS = 6  # of a constructor
FELT = 0.2  # seconds from which a test that sleeps says why
PACED = {"bench", "harness"}  # below tests/: loads and faults have a pace of their own
#: What begins a noun phrase or a clause, and so no docstring of a function.
_NO_VERBS = """
a all an and another any anything as at both but by each either every everything few for from here how if in it its many more
most much neither no none not nothing of on one only or other so some somebody something such that the their them then there
these they this those to true false two until what whatever when where whether which while who whom whose why with without
"""
#: Gerunds that the field uses for the thing itself.
_GERUNDS = "batching logging tracing routing scheduling scaling draining polling naming tuning ring string mapping"
NO_VERBS, GERUNDS = frozenset(_NO_VERBS.split()), frozenset(_GERUNDS.split())
#: Words that readers stumbled over, and what to write.
WORDS = {
    r"\btold\b": "reported, logged, notified",
    r"\bbears\b": "has, carries",
    r"\blies there\b": "is there, is stored",
    r"\bmeanwhile\b": "while ..., during ...",
    r"\bjust now\b": "now, at the moment",
    r"\bsees? \w+ out\b": "finalize",
    r"\blet (all|these|it) be\b": "stop managing",
    r"\bmake it so\b": "apply",
    r"\btake[ns]? back\b|\btaking back\b": "cancel",
    r"\basked again\b": "retried",
    r"\bbecause (an? )?\w+ lacks\b": "is missing",
    r"\bwhat is too much\b": "hard limits",
}


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the first word of each function's docstring; a property's, or a dunder's, may be a noun."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {ast.unparse(decorator).split("(")[0].rpartition(".")[2] for decorator in node.decorator_list}
        if decorators & {"property", "cached_property", "setter"} or node.name.startswith("__"):
            continue
        if text := ast.get_docstring(node):
            yield node.body[0].lineno, text.split(maxsplit=1)[0]


def faults() -> Iterator[str]:
    """Yield what is wrong, as path:line: fault."""
    for path in CODE:
        where, text = path.relative_to(ROOT), path.read_text()
        tree = ast.parse(text)
        yield from too_long(where, text, tree)
        if path not in SOURCES:
            if where.parts[1] not in PACED:
                yield from unexplained_sleeps(where, text, tree)
            continue
        if path.stem.endswith("ing") and path.stem not in GERUNDS:
            yield f"{where}:1: a module is named for the thing in it, not by a gerund"
        yield from wide_constructors(where, tree)
        for line, word in docstrings(tree):
            bare = re.sub(r"\W+$", "", word)
            if bare.lower() in NO_VERBS or not bare[:1].isalpha():
                yield f"{where}:{line}: a function's docstring begins with a verb, not with {word!r}"
        yield from stumbled(where, text)
    for path in PAGES:
        where, text = path.relative_to(ROOT), path.read_text()
        yield from stumbled(where, text)
        if path.name not in GENERATED:
            yield from long_lines(where, text)


def unexplained_sleeps(where: Path, text: str, tree: ast.Module) -> Iterator[str]:
    """Yield sleeps of a fixed time, long enough to be felt, that no comment explains: a test waits for an event."""
    lines = ["", *text.splitlines()]
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name("asyncio" | "time"), attr="sleep"),
                args=[ast.Constant(int() | float() as seconds)],
            ) if seconds >= FELT and "#" not in lines[node.lineno - 1] + lines[node.lineno]:
                yield f"{where}:{node.lineno}: wait for an event, or say in a comment why a test sleeps for {seconds} s"


def too_long(where: Path, text: str, tree: ast.Module) -> Iterator[str]:
    """Yield a module that is too long to be read at once, and functions that are; docstrings do not count for these."""
    if (lines := text.count("\n")) > MODULE:
        yield f"{where}:1: {lines} lines; at most {MODULE}, or it is about two things"
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        length = (node.end_lineno or 0) - node.lineno + 1
        if ast.get_docstring(node):
            length -= (first.end_lineno or 0) - first.lineno + 1
        if length > FUNCTION:
            yield f"{where}:{node.lineno}: {node.name} has {length} lines; at most {FUNCTION}"


def wide_constructors(where: Path, tree: ast.Module) -> Iterator[str]:
    """Yield constructors that take more than anybody keeps in mind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            taken = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs) - 1
            if taken > PARAMETERS:
                yield f"{where}:{node.lineno}: a constructor takes {taken} parameters; at most {PARAMETERS}"


def long_lines(where: Path, text: str) -> Iterator[str]:
    """Yield lines of prose that are longer than readers' editors; tables, code and pictures may be."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.startswith("```")
        if len(line) > WIDTH and not fenced and not line.startswith(("|", "    ", "#", "![")):
            yield f"{where}:{number}: prose is wrapped at {WIDTH} columns"


def stumbled(where: Path, text: str) -> Iterator[str]:
    """Yield where a word of WORDS stands."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, better in WORDS.items():
            if found := re.search(pattern, line, re.IGNORECASE):
                yield f"{where}:{number}: {found[0]!r}: better {better}"


if __name__ == "__main__":
    found = [fault for fault in faults() if fault.startswith(tuple(sys.argv[1:]) or "")]
    print("\n".join(found) or "the house's language: no faults")  # noqa: T201
    sys.exit(bool(found))
