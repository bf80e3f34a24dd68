"""What is simulated where one machine ends is what real gateways do at the sizes that it has."""

from pathlib import Path
from typing import Any

import pytest

from bench.growth import real
from bench.simulated import fleet, read, shares
from harness.kafka import Broker

_PARTITIONS = 4


@pytest.mark.parametrize("minted", [True, False], ids=["minted", "given"])
def test_real_gateways_read_what_simulated_ones_do(
    broker: Broker, tmp_path: Path, names: dict[str, Any], minted: bool
) -> None:
    name = names["results"]["topic"]
    told = real(
        broker.address, tmp_path, name, gateways=2, sessions=24, records=3, partitions=_PARTITIONS, minted=minted
    )
    assert told.read == read(told.held, told.written, _PARTITIONS)
    written = sum(told.written.values())
    # Given ids fall anywhere, and so does what has to be read for them.
    assert sum(told.read) == written if minted else written < sum(told.read) <= 2 * written


@pytest.mark.parametrize("gateways", [1, 2, 4, 8, 16])
def test_minted_sessions_are_read_once_however_many_gateways_there_are(gateways: int) -> None:
    held = fleet(gateways, 480, 16, minted=True)
    assert sum(read(held, {session: 1 for mine in held for session in mine}, 16)) == 480
    assert sorted(partition for share in shares(gateways, 16) for partition in share) == list(range(16))
