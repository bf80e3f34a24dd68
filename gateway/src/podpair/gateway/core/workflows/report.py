"""Describes an instance for people, from the records of its state: what each stage does, and what it waits for."""

from collections.abc import Mapping
from datetime import UTC, datetime

from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.records import Scheduled, Unit, UnitRecord
from podpair.gateway.core.workflows.state import read_state


def workflow_report(name: str, found: Mapping[bytes, bytes], now: float) -> list[str]:
    """Return lines about the instances of a request, or of a session, by its name, and requests that are to begin later.

    None if there are none.

    found: the newest record of each key. now: Unix seconds.
    """
    instances, _, scheduled = read_state(found, Instance)
    lines = [_kept(kept) for kept in scheduled.values() if name in (kept.id, kept.session)]
    for instance in instances.values():
        if name in (instance.begun.id, instance.begun.session):
            lines += _instance(instance, now)
    return lines


def _kept(kept: Scheduled) -> str:
    if kept.handed_over is not None:
        return f"request {kept.id}  session {kept.session}: put on the requests topic at {_time(kept.handed_over)}"
    return f"request {kept.id}  session {kept.session}: kept, it begins at {_time(kept.not_before)}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _instance(instance: Instance, now: float) -> list[str]:
    begun = instance.begun
    version = f" version {begun.version}" if begun.version else ""
    lines = [
        f"workflow {begun.model}{version}  request {begun.id}  session {begun.session}: {instance.state},"
        f" begun {_ago(now - begun.began)} ago"
    ]
    if instance.failing:
        lines.append(f"  ends with {instance.cursor.code}: {instance.cursor.message}")
    width = max(map(len, instance.workflow.stages))
    for stage in instance.workflow.stages:
        lines.append(f"  {stage:<{width}}  {_stage(instance, Unit(stage), now)}")
        undo = [record for unit, record in instance.units.items() if unit.undo and unit.stage == stage]
        if undo:
            ended = sum(record.state == "finished" for record in undo)
            lines.append(f"  {'':<{width}}  compensated: {ended} of {len(undo)}")
    return lines


def _stage(instance: Instance, unit: Unit, now: float) -> str:
    record = instance.units.get(unit)
    if record is None:
        waits = [name for name in sorted(instance.needs[unit.stage]) if not instance.stage_ended(name)]
        return f"not begun, it waits for {', '.join(waits)}" if waits else "not begun"
    if record.items is not None and not record.ended:
        items = instance.items_of(unit.stage)
        ended = sum(item is not None and item.ended for item in items)
        busy = [f"[{index}] {_unit(item, now)}" for index, item in enumerate(items) if item and not item.ended]
        return f"{ended} of {len(items)} items have ended; {'; '.join(busy)}"
    if record.state == "waiting":
        return f"waits for the message {instance.stage(unit).wait_for!r}, until {_time(record.until or now)}"
    return _unit(record, now)


def _unit(record: UnitRecord, now: float) -> str:
    text: str = record.state
    if record.attempt > 1:
        text += f", attempt {record.attempt}"
    if not record.ended:
        text += f", since {_ago(now - record.since)}"
    return text + (f": {record.error}" if record.error else "")


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
