"""Messages to Slack: blocks made of an event by a template, within the lengths that Slack takes.

Invariants: what an event says is escaped, so that it can't mention anybody or pose as a link; whatever it says, the message is
one that Slack takes.
"""

import re
from typing import Any

from podpair.gateway.core.deliveries.templates import InvalidTemplate, as_text, event_fields, fill

_MOST_BLOCKS, _MOST_FIELDS, _MOST_ELEMENTS = 50, 10, 10
_SECTION, _FIELD, _HEADER, _CONTEXT, _TEXT = 3000, 2000, 150, 3000, 4000  # characters
_ENTITY_CUT = re.compile(r"&[a-z]{0,3}$")
_TEMPLATE: list[dict[str, Any]] = [
    {"type": "section", "text": {"type": "mrkdwn", "text": "*{{type}}* {{data.id}}"}},
    {"type": "section", "text": {"type": "mrkdwn", "text": "```{{content}}```"}},
]


def escape(text: str) -> str:
    """Escape the characters that Slack gives a meaning (&, <, >)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def message(body: bytes, template: Any) -> dict[str, Any]:
    """Make the message of an event: `text` for notifications, and `blocks`."""
    event = event_fields(body)
    text = f"{event.get('type', '')}: {as_text(event['content'])}"
    blocks = [_filled(block, event) for block in (template or _TEMPLATE)]
    return {"text": _cut(escape(text), _TEXT), "blocks": blocks}


def _filled(block: dict[str, Any], event: Any) -> dict[str, Any]:
    kind, made = block["type"], dict(block)
    if kind == "header":
        made["text"] = _text(block["text"], event, _HEADER)
    elif kind == "section":
        if "text" in block:
            made["text"] = _text(block["text"], event, _SECTION)
        if "fields" in block:
            made["fields"] = [_text(field, event, _FIELD) for field in block["fields"]]
    elif kind == "context":
        made["elements"] = [_text(element, event, _CONTEXT) for element in block["elements"]]
    return made


def _text(text: dict[str, Any], event: Any, most: int) -> dict[str, Any]:
    """Fill a text object in. Slack refuses an empty one."""
    template: str = text["text"]
    if template.startswith("```") and template.endswith("```") and len(template) >= 6:
        found = f"```{_cut(fill(template[3:-3], event, most, escape), most - 6) or ' '}```"
    else:
        found = fill(template, event, most, escape)
    return {**text, "text": _cut(found, most) or " "}


def _cut(text: str, most: int) -> str:
    """Cut a text, but not within an escaped character."""
    return text if len(text) <= most else _ENTITY_CUT.sub("", text[: most - 1]) + "…"


def check_template(blocks: Any) -> None:
    """Raise InvalidTemplate for what isn't a list of header, section, context and divider blocks that Slack takes."""
    if not isinstance(blocks, list) or not 0 < len(blocks) <= _MOST_BLOCKS:
        raise InvalidTemplate(f"blocks: a list of 1 to {_MOST_BLOCKS} blocks")
    for number, block in enumerate(blocks):
        if (why := _why_invalid(block)) is not None:
            raise InvalidTemplate(f"blocks[{number}]: {why}")


def _why_invalid(block: Any) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else None
    members = {"header": {"text"}, "section": {"text", "fields"}, "context": {"elements"}, "divider": set()}
    if not isinstance(kind, str) or kind not in members:
        return f"type is one of {', '.join(members)}"
    if unknown := block.keys() - members[kind] - {"type"}:
        return f"unknown: {', '.join(sorted(map(str, unknown)))[:100]}"
    if kind == "header":
        return _why_no_text(block.get("text"), _HEADER, ("plain_text",))
    if kind == "context":
        return _why_no_texts(block.get("elements"), "elements", _MOST_ELEMENTS, _CONTEXT)
    if kind == "section":
        if not block.keys() & {"text", "fields"}:
            return "text or fields is missing"
        why = _why_no_text(block["text"], _SECTION) if "text" in block else None
        return why or (_why_no_texts(block["fields"], "fields", _MOST_FIELDS, _FIELD) if "fields" in block else None)
    return None


def _why_no_texts(texts: Any, name: str, most: int, longest: int) -> str | None:
    if not isinstance(texts, list) or not 0 < len(texts) <= most:
        return f"{name}: a list of 1 to {most} texts"
    return next((why for text in texts if (why := _why_no_text(text, longest)) is not None), None)


def _why_no_text(text: Any, longest: int, kinds: tuple[str, ...] = ("mrkdwn", "plain_text")) -> str | None:
    if not isinstance(text, dict) or text.keys() != {"type", "text"} or text["type"] not in kinds:
        return f"a text is {{type: {' or '.join(kinds)}, text: …}}"
    if not isinstance(text["text"], str) or not 0 < len(text["text"]) <= longest:
        return f"a text has 1 to {longest} characters"
    return None
