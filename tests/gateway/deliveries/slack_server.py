"""A server that takes messages as Slack documents it, and refuses all else.

Incoming webhooks (docs.slack.dev/messaging/sending-messages-using-incoming-webhooks), response_url
(…/interactivity/handling-user-interaction#message_responses), Block Kit's blocks and text objects, formatting, rate limits.
"""

import json
import re
import time
from typing import Any

from aiohttp import web

_ENTITIES = re.compile(r"&(?!amp;|lt;|gt;)")
_TOP = {"text", "blocks", "response_type", "replace_original"}


def faults(message: Any, *, response_url: bool = False) -> list[str]:
    """What Slack would refuse of a message, or read as something else than text."""
    if not isinstance(message, dict) or not message.keys() <= _TOP:
        return ["not a message"]
    found = [] if isinstance(message.get("text"), str) and message["text"] else ["no_text"]
    if len(message.get("text", "")) > 40_000:
        found.append("msg_too_long")
    if response_url != ("response_type" in message):
        found.append("response_type where it does not belong, or none")
    if response_url and (
        message["response_type"] not in ("ephemeral", "in_channel") or message["replace_original"] is not False
    ):
        found.append("response_type")
    found += _markup(message.get("text", ""))
    blocks = message.get("blocks", [])
    if not isinstance(blocks, list) or len(blocks) > 50:
        return [*found, "invalid_blocks: more than 50"]
    for block in blocks:
        found += _block(block)
    return found


def _block(block: Any) -> list[str]:
    kind = block.get("type")
    if kind == "divider":
        return [] if block.keys() == {"type"} else ["divider"]
    if kind == "header":
        return _text(block["text"], 150, ("plain_text",))
    if kind == "context":
        elements = block["elements"]
        return [f for one in elements for f in _text(one, 3000)] + (["context"] if not 0 < len(elements) <= 10 else [])
    if kind == "section":
        fields = block.get("fields", [])
        found = [f for one in fields for f in _text(one, 2000)]
        found += _text(block["text"], 3000) if "text" in block else [] if fields else ["section without text"]
        return found + (["more than 10 fields"] if len(fields) > 10 else [])
    return [f"unsupported type: {kind}"]


def _text(text: Any, most: int, kinds: tuple[str, ...] = ("mrkdwn", "plain_text")) -> list[str]:
    if text.get("type") not in kinds or text.keys() != {"type", "text"}:
        return ["text object"]
    found = [] if 0 < len(text["text"]) <= most else [f"a text of {len(text['text'])} characters, {most} at most"]
    return found + _markup(text["text"])


def _markup(text: str) -> list[str]:
    """Mentions and links (<!channel>, <@U…>, <https://…>) that an event's content would make."""
    return (["< or > in a text"] if re.search("[<>]", text) else []) + (
        ["& in a text"] if _ENTITIES.search(text) else []
    )


class SlackServer:
    """`/services/…` is an incoming webhook, `/response/…` a response_url."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []  # path and message
        self.refusals: list[str] = []
        self._last: dict[str, float] = {}
        self._uses: dict[str, int] = {}
        self.missing: set[str] = set()  # paths of hooks that were removed

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        return runner

    async def _take(self, request: web.Request) -> web.Response:
        began, path = time.monotonic(), request.path
        if request.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return self._refuse(400, "invalid_payload")
        body = await request.read()
        if time.monotonic() - began > 3:
            return self._refuse(408, "its body took more than 3 s")
        if path in self.missing:
            return self._refuse(404, "no_service")
        response_url = path.startswith("/response/")
        if response_url:
            self._uses[path] = self._uses.get(path, 0) + 1
            if self._uses[path] > 5:
                return self._refuse(404, "used_url")
        elif time.monotonic() - self._last.get(path, 0) < 0.9:  # about one a second
            return self._refuse(429, "rate_limited", {"Retry-After": "1"})
        self._last[path] = time.monotonic()
        message = json.loads(body)
        if found := faults(message, response_url=response_url):
            return self._refuse(400, "; ".join(found))
        self.messages.append((path, message))
        return web.Response(text="ok")

    def _refuse(self, status: int, why: str, headers: dict[str, str] | None = None) -> web.Response:
        self.refusals.append(why)
        return web.Response(status=status, text=why, headers=headers)
