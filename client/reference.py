"""Prints docs/client-reference.md, made from the docstrings of podpair.client (`make reference`)."""

import re

from griffe2md import load_config, render_package_docs

_PREFACE = """Reference of `podpair-client`, for who writes Python against a gateway; [clients.md](clients.md) is the
introduction. This page is made from the docstrings, by `make reference`."""


def page() -> str:
    """Render the page. Its links to types are left out: they lead to anchors that the page does not have."""
    text = render_package_docs("podpair.client", config=load_config(), format_md=True)
    text = re.sub(r"<code>(.*?)</code>", lambda found: f"`{_plain(found[1])}`", text)
    title, rest = text.split("\n", 1)
    return f"{title}\n\n{_PREFACE}\n{rest.rstrip()}\n"


def _plain(code: str) -> str:
    return re.sub(r"\[([^][]*)\]\(#[^)]*\)", r"\1", code.replace("\\", ""))


if __name__ == "__main__":
    print(page(), end="")
