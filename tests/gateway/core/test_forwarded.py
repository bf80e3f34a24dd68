"""What is believed of the headers by which proxies tell of their clients."""

from typing import Any

import pytest

from podpair.gateway.core.forwarded import TrustedProxies
from podpair.gateway.core.origins import Reached

HOST = "10.0.0.9:8080"  # what the gateway is called by the proxy


def reached(trusted: tuple[str, ...], peer: str | None, forwarded: Any = (), **x: str) -> Reached:
    lists = {f"X-Forwarded-{name.title()}": [part.strip() for part in value.split(",")] for name, value in x.items()}
    return TrustedProxies(trusted).reached(peer, HOST, lists, forwarded)


def test_nobody_is_trusted_unless_the_setting_names_him() -> None:
    said = {"host": "gw.example", "proto": "https", "for": "192.0.2.1"}
    for trusted, peer in [
        ((), "10.0.0.1"),
        (("10.0.1.0/24",), "10.0.0.1"),
        (("10.0.0.0/8",), None),
        (("10.0.0.0/8",), "x"),
    ]:
        assert reached(trusted, peer, **said) == Reached(HOST, None, peer)
    element = ({"host": "gw.example", "proto": "https", "for": "192.0.2.1"},)
    assert reached((), "10.0.0.1", element) == Reached(HOST, None, "10.0.0.1")


@pytest.mark.parametrize(
    ("trusted", "peer"),
    [
        (("10.0.0.0/8",), "10.1.2.3"),
        (("10.1.2.3",), "10.1.2.3"),
        (("10.1.2.3/8",), "10.255.0.1"),  # a network that is written by one of its hosts
        (("10.0.0.0/8",), "::ffff:10.1.2.3"),  # as a socket for both families has it
        (("fd00::/8",), "fd00::7%eth0"),
        (("192.0.2.0/24", "*"), "10.1.2.3"),
    ],
)
def test_a_trusted_peer_is_believed(trusted: tuple[str, ...], peer: str) -> None:
    assert reached(trusted, peer, host="gw.example:8443", proto="wss").host == "gw.example:8443"
    assert reached(trusted, peer, host="gw.example", proto="wss").scheme == "https"


PROXIES = ("10.0.0.0/8",)


def test_of_a_list_counts_what_trusted_proxies_have_added() -> None:
    # The client wrote the first of each; 10.0.0.2 was asked by it, and asked 10.0.0.1.
    lists = {
        "for": "1.1.1.1, 192.0.2.7, 10.0.0.2",
        "host": "evil.example, gw.example, inner",
        "proto": "http, https, http",
    }
    assert reached(PROXIES, "10.0.0.1", **lists) == Reached("gw.example", "https", "192.0.2.7")
    # A proxy that replaces what it got leaves one element.
    assert reached(PROXIES, "10.0.0.1", **(lists | {"host": "gw.example"})).host == "gw.example"
    # One trusted proxy only: what stands before its own word is the client's.
    lists = {"for": "10.0.0.5, 192.0.2.7", "host": "evil.example, gw.example", "proto": "https"}
    assert reached(PROXIES, "10.0.0.1", **lists) == Reached("gw.example", "https", "192.0.2.7")


def test_forwarded_is_read_in_the_same_way() -> None:
    elements = [
        {"for": "10.0.0.7", "host": "evil.example", "proto": "http"},
        {"for": '"[2001:db8::1]:4711"', "host": "gw.example", "proto": "https"},
        {"for": "10.0.0.2", "host": "inner"},
    ]
    assert reached(PROXIES, "10.0.0.1", elements) == Reached("gw.example", "https", "2001:db8::1")
    assert reached(PROXIES, "10.0.0.1", elements[2:]) == Reached("inner", None, "10.0.0.2")
    # Which of the two kinds a proxy writes can't be told: the one that most write counts.
    assert reached(PROXIES, "10.0.0.1", elements, host="other.example").host == "other.example"


@pytest.mark.parametrize(
    ("text", "client"), [("192.0.2.1:99", "192.0.2.1"), ("unknown", "unknown"), ("[2001:db8::1]", "2001:db8::1")]
)
def test_addresses_as_proxies_write_them(text: str, client: str) -> None:
    assert reached(PROXIES, "10.0.0.1", **{"for": text}).client == client


def test_what_is_missing_stays_as_it_came() -> None:
    assert reached(PROXIES, "10.0.0.1") == Reached(HOST, None, "10.0.0.1")
    assert reached(PROXIES, "10.0.0.1", proto="gopher") == Reached(HOST, None, "10.0.0.1")
