"""Which IP addresses are public, so that a subscription can't reach what only the gateway can.

Invariant: an IPv6 address that stands for an IPv4 one (IPv4-mapped, NAT64) is judged as that; tunnels and other ways of writing
an IPv4 address (6to4, Teredo, IPv4-compatible) are refused altogether.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052; others are the network's own
_UNICAST = IPv6Network("2000::/3")  # all that is assigned of IPv6 for the public
# Special-purpose registries of IANA, with what `is_global` of some versions of Python lets through.
_REFUSED = tuple(
    ip_network(network)
    for network in ("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "224.0.0.0/3",
                    "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)  # fmt: skip


class AddressRefused(OSError):
    """An address that may not be connected to."""


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse networks. Raises ValueError."""
    return tuple(ip_network(text, strict=False) for text in texts)


def why_refused(text: str, allowed: Sequence[Network] = ()) -> str | None:
    """Return why nothing is delivered to this address; None: it may be connected to. `allowed` networks always may."""
    try:
        address = ip_address(text)
    except ValueError:
        return "it is no IP address"
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "it is of one link only"
        address = _meant_by(address)
    if any(address.version == network.version and address in network for network in allowed) or _is_public(address):
        return None
    return "it is not a public address"


def _meant_by(address: IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that packets to this one go to, if it stands for one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return False
    return address.is_global and not any(
        address.version == network.version and address in network for network in _REFUSED
    )
