"""Which connection of a session is the newest, where several gateways may each hold one.

A connection that takes over a session which may live elsewhere is announced by a record in the session's home partition.
Invariant: of all announced connections the one whose announcement stands last in the log keeps the session, and every gateway
that reads the log comes to that alone; an announcement that was written late, after its client had moved on, ends nobody.
"""

import secrets
from typing import NamedTuple, Self


class Lineage(NamedTuple):
    """A row of connections that succeed each other by resume tokens; `generation` counts them."""

    name: str = "0"  # that of a session whose id was minted: only resume tokens lead to it
    generation: int = 0

    def __str__(self) -> str:
        return f"{self.name}.{self.generation}"

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read what `str` wrote; the first of its kind where it is anything else."""
        name, _, generation = text.partition(".") if isinstance(text, str) else ("", "", "")
        return (
            cls(name, int(generation))
            if name and generation.isdecimal() and generation.isascii() and len(generation) < 16
            else cls()
        )

    def next(self) -> Self:
        """That of the connection which a resume token of this one makes."""
        return self._replace(generation=self.generation + 1)


def new_lineage() -> Lineage:
    """That of a connection which no resume token leads to, though its session may have had others."""
    return Lineage(secrets.token_hex(8))


class Hold:
    """One connection's hold on its session. `id` is that of its announcement; without one any other ends it."""

    __slots__ = ("_announced_at", "_newest", "id", "lineage")

    def __init__(self, lineage: Lineage, *, announced: bool) -> None:
        self.lineage = lineage
        self.id = f"{lineage}.{secrets.token_hex(8)}" if announced else ""
        self._announced_at: int | None = None if announced else -1  # offset of its announcement
        self._newest = -1  # offset of the last announcement of another

    def saw(self, announcement: str, offset: int) -> bool:
        """An announcement stands at `offset` of the log; returns whether the session is another connection's now."""
        if self.id and announcement == self.id:
            self._announced_at = offset if self._announced_at is None else max(offset, self._announced_at)
        elif not self._supersedes(announcement):
            self._newest = max(offset, self._newest)
        return self.lost

    @property
    def lost(self) -> bool:
        """Whether another connection was announced behind this one."""
        return self._announced_at is not None and self._newest > self._announced_at

    def log_restarted(self, end: int) -> None:
        """The log now ends at offset `end`: what it holds from there on stands behind this connection's announcement."""
        if self._announced_at is not None:
            self._announced_at = min(self._announced_at, end - 1)
        self._newest = -1

    def _supersedes(self, announcement: str) -> bool:
        """Whether it is that of a connection which this one, by its resume token, came after."""
        other = Lineage.parse(announcement.rpartition(".")[0])
        return other.name == self.lineage.name and other.generation < self.lineage.generation
