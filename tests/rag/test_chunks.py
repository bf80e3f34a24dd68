"""How a document becomes passages, and a passage sentences."""

from pathlib import Path
from typing import Any

import pytest

from harness.processes import ROOT
from harness.rag import run_in_environment

pytestmark = pytest.mark.process

PAGE = """\
Before any heading, this stands by itself.

# The page

It begins here, with a [link](x.md#y) and *emphasis*. A second sentence has `code`.

```sh
# no heading, a comment
make demo
```

## What it does!

- One item that is long enough to count.
- Another one, that says something else.

| setting | |
| --- | --- |
| `a.b` | What this row of the table says. |

### Below that

## What it does!

The same heading again, with another text.
"""


def chunks(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_in_environment(Path(__file__).with_name("chunk_document.py"), text)
    return found


def test_a_passage_has_the_headings_above_it_and_its_sentences() -> None:
    found = chunks(PAGE)
    assert [(chunk["heading"], chunk["anchor"]) for chunk in found] == [
        ("", ""),
        ("The page", ""),
        ("The page › What it does!", "what-it-does"),
        ("The page › What it does!", "what-it-does"),
    ]
    assert "# no heading, a comment" in found[1]["text"]
    assert found[1]["sentences"] == ["It begins here, with a link and emphasis.", "A second sentence has `code`."]
    assert found[2]["sentences"] == [
        "One item that is long enough to count.",
        "Another one, that says something else.",
        "`a.b` — What this row of the table says.",
    ]
    assert found[3]["text"] == "The same heading again, with another text."


def test_no_passage_is_much_longer_than_the_model_reads_and_nothing_is_left_out() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    found = chunks(page)
    assert all(len(chunk["text"]) > 0 and chunk["tokens"] <= 320 + 64 for chunk in found)  # and its headings
    words = [word for line in page.splitlines() if not line.startswith("#") for word in line.split()]
    # Long paragraphs are cut between words, or before a piece of code: what is left without spaces is all of it.
    assert "".join(words) == "".join(word for chunk in found for word in chunk["text"].split())


@pytest.mark.parametrize("text", ["", "\n\n", "# Only a title\n", "---\n"])
def test_a_page_without_a_word_has_no_passages(text: str) -> None:
    assert chunks(text) == []


def test_what_the_splitter_leaves_over_stays_with_what_stands_before_it() -> None:
    rows = "".join(f"| setting {number} | {'what that one does, and why. ' * 5} |\n" for number in range(10))
    found = chunks(f"# Page\n\nWhat stands before.\n\n| setting | |\n| --- | --- |\n{rows}\nAnd a word after it.")
    assert [chunk["tokens"] > 200 for chunk in found] == [True, True]
    assert found[0]["text"].startswith("What stands before")
    assert found[1]["text"].endswith("And a word after it.")
