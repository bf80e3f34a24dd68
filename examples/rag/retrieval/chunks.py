"""Cuts a Markdown document into chunks, each below one heading, and a chunk into sentences.

A chunk knows the way of headings down to it, which is embedded with its text: "Close codes" says little without "The protocol".
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter
from tokenizers import Tokenizer

from retrieval.pieces import tokenizer

# Word pieces of a chunk, at least (if there are as many) and at most. Its vector is of the first 256, which the model reads.
_CAPACITY = (200, 320)
# Part of each chunk's digest: a change here, or of the embedding model, embeds all anew.
_PIPELINE = "all-MiniLM-L6-v2 int8, chunks 2"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"(])")
# Sentences with fewer letters say nothing by themselves, longer ones are no answer.
_LETTERS = (20, 600)


@dataclass(frozen=True, slots=True)
class Section:
    """The text below one heading, up to the next one of any level. headings: from the page's title down."""

    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage that is found as a whole."""

    headings: tuple[str, ...]
    text: str

    @property
    def heading(self) -> str:
        """The way of headings, as it is shown."""
        return " › ".join(self.headings)

    @property
    def anchor(self) -> str:
        """The fragment by which Markdown viewers address the section; empty for the page itself."""
        if len(self.headings) < 2:
            return ""
        return re.sub(r"[^\w\- ]", "", self.headings[-1].lower()).replace(" ", "-")

    @property
    def embedded(self) -> str:
        """What is embedded of it."""
        return f"{'. '.join(self.headings)}.\n{self.text}"

    @property
    def digest(self) -> bytes:
        """Equal for chunks whose embeddings are equal."""
        return hashlib.sha256(f"{_PIPELINE}\n{self.embedded}".encode()).digest()


def chunks_of(text: str) -> list[Chunk]:
    """Return a document's chunks, in order; none twice."""
    found = [Chunk(section.headings, piece) for section in sections_of(text) for piece in _pieces_of(section.text)]
    return list(dict.fromkeys(chunk for chunk in found if re.search(r"\w", chunk.text)))


def _pieces_of(text: str) -> Iterator[str]:
    """Yield a section's pieces. The splitter leaves rests, such as a table's last row: they stay with what stands before them."""
    begin = end = 0
    for offset, piece in _splitter().chunk_indices(text):
        if not end:
            begin = offset
        elif len(_tokenizer().encode(text[begin : offset + len(piece)]).ids) > _CAPACITY[1]:
            yield text[begin:end]
            begin = offset
        end = offset + len(piece)
    if end:
        yield text[begin:end]


def sections_of(text: str) -> Iterator[Section]:
    """Yield the sections of a document that have a text of their own."""
    tokens = _markdown().parse(text)
    lines = text.splitlines()
    headings: list[tuple[int, str]] = []
    begin = 0

    def section(end: int) -> Iterator[Section]:
        body = "\n".join(lines[begin:end]).strip("\n")
        if body.strip():
            yield Section(tuple(title for _, title in headings), body)

    for token, inline in pairwise(tokens):
        # Headings inside of lists and quotations structure these, not the page.
        if token.type != "heading_open" or token.level != 0 or token.map is None:
            continue
        yield from section(token.map[0])
        level = int(token.tag[1:])
        headings = [(above, title) for above, title in headings if above < level]
        headings.append((level, _plain(inline.content)))
        begin = token.map[1]
    yield from section(len(lines))


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a passage in Markdown, as plain text: of paragraphs, list items and rows of tables."""
    found: list[str] = []
    for token in _markdown().parse(_rows_as_paragraphs(text)):
        if token.type == "inline":
            found += _SENTENCE_END.split(_plain(" ".join(token.content.split())))
    least, most = _LETTERS
    return [sentence for sentence in dict.fromkeys(found) if least <= len(sentence) <= most]


def _rows_as_paragraphs(text: str) -> str:
    """Make a paragraph of each row of a table; a passage may have rows without their head."""
    lines = []
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            row = " — ".join(cell for cell in cells if cell and not re.fullmatch(r"[:\- ]+", cell))
            lines += ["", row, ""]
        else:
            lines.append(line)
    return "\n".join(lines)


def _plain(inline: str) -> str:
    """Return inline Markdown without links and emphasis; code keeps its backticks."""
    (token,) = _markdown().parseInline(inline)
    parts = []
    for child in token.children or ():
        if child.type == "code_inline":
            parts.append(f"`{child.content}`")
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type in ("text", "text_special", "image"):
            parts.append(child.content)
    return "".join(parts)


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


@cache
def _splitter() -> MarkdownSplitter:
    return MarkdownSplitter.from_huggingface_tokenizer(_tokenizer(), _CAPACITY)


@cache
def _tokenizer() -> Tokenizer:
    return tokenizer()
