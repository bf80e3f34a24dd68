"""What a client hears of a workflow."""

from typing import Any

Told = list[dict[str, Any]]


async def hear(client: Any, request: str, until: str = "") -> tuple[Told, dict[str, Any]]:
    """Return the events of a workflow's stages, and its terminal event; or those up to one that is called `until`
    (`<stage> <event>`), and nothing.
    """
    told: Told = []
    while True:
        event = await client.next()
        if event.get("id") != request:
            continue
        if event["type"] in ("result", "error"):
            return told, event
        if event["type"] == "partial":
            told += event["data"]
            if until and any(short(each) == until for each in told):
                return told, {}


def short(event: dict[str, Any]) -> str:
    """Return an event's stage, item and kind."""
    item = f"[{event['index']}]" if "index" in event else ""
    return f"{event.get('stage', '')}{item} {event['event']}".strip()


def shorts(told: Told) -> list[str]:
    return [short(event) for event in told]
