"""A fleet of gateways without gateways: who reads what of the results topic, by the functions that decide it.

Where one machine ends: `test_growth.py` checks it against real gateways at small sizes.
"""

import random
from collections.abc import Iterator, Mapping, Sequence

from podpair.gateway.core.partitions import home_partition, mint_session_id


def shares(gateways: int, partitions: int) -> list[frozenset[int]]:
    """The request partitions of each group member, as an assignor deals them out: nobody has two more than another."""
    return [frozenset(range(number, partitions, gateways)) for number in range(gateways)]


def fleet(gateways: int, sessions: int, partitions: int, *, minted: bool, seed: int = 3) -> list[list[str]]:
    """The sessions of each gateway, which come to them in turn; their ids are minted there, or given (claim `sid`)."""
    draw = random.Random(seed)
    owned = shares(gateways, partitions)
    ids: Iterator[str] = iter(lambda: f"s-{draw.getrandbits(64):016x}", "")
    return [
        [
            mint_session_id(owned[number] if minted else (), partitions, ids.__next__)
            for _ in range(number, sessions, gateways)
        ]
        for number in range(gateways)
    ]


def read(held: Sequence[Sequence[str]], written: Mapping[str, int], partitions: int) -> list[int]:
    """What each gateway reads, where `written` says how much each session is sent: all of the homes of its sessions."""
    by_partition = [0] * partitions
    for session, much in written.items():
        by_partition[home_partition(session, partitions)] += much
    return [sum(by_partition[home] for home in {home_partition(s, partitions) for s in mine}) for mine in held]
