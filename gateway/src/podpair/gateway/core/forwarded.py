"""What trusted proxies say of the client behind them: X-Forwarded-For, -Host and -Proto, or Forwarded (RFC 7239).

Invariant: a header counts only if the peer that the connection comes from is trusted, and of a list only what trusted proxies
have added, which is its end; what a client may have written itself, never. Forwarded counts only if no X-Forwarded-… is
there: a proxy that writes the one kind passes the other on as it came.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from podpair.gateway.core.origins import Reached

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # Traefik says wss of an upgrade
X_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")


def network_of(text: str) -> IPv4Network | IPv6Network:
    """Parse a network in CIDR notation, or an address. Raises ValueError."""
    return ip_network(text, strict=False)


class TrustedProxies:
    """The proxies of these networks (CIDR notation, or single addresses); `*` is any peer."""

    def __init__(self, networks: Iterable[str]) -> None:
        named = tuple(networks)
        self._any = "*" in named
        self._networks = tuple(network_of(one) for one in named if one != "*")

    def trusts(self, address: str | None) -> bool:
        """Return whether the address is a trusted proxy's."""
        if self._any:
            return True
        found = _address(address or "")
        return found is not None and any(found in network for network in self._networks)

    def reached(
        self,
        peer: str | None,
        host: str,
        x_forwarded: Mapping[str, Sequence[str]],
        forwarded: Sequence[Mapping[str, str]] = (),
    ) -> Reached:
        """Return how the client reached the gateway.

        `x_forwarded`: the elements of each header of X_FORWARDED, first to last; `forwarded`: those of Forwarded, their
        parameters in lower case.
        """
        if not self.trusts(peer):
            return Reached(host, client=peer)
        clients, hosts, schemes = (list(x_forwarded.get(name, ())) for name in X_FORWARDED)
        if not (clients or hosts or schemes):
            # The last element is the peer's own: what it says of the client goes with what it says of host and scheme.
            client, depth = self._client([one.get("for", "") for one in forwarded], peer)
            said = forwarded[max(0, len(forwarded) - depth)] if forwarded else {}
            return _reached(said.get("host"), said.get("proto"), client, host)
        client, depth = self._client(clients, peer)
        return _reached(_farthest(hosts, depth), _farthest(schemes, depth), client, host)

    def _client(self, addresses: Sequence[str], peer: str | None) -> tuple[str | None, int]:
        """Return the client's address, and how many trusted proxies are before it."""
        client, depth = peer, 1
        for address in reversed(addresses):
            client = _bare(address)
            if not self.trusts(client):
                break
            depth += 1
        return client, depth


def _reached(host: str | None, scheme: str | None, client: str | None, own: str) -> Reached:
    return Reached(host or own, _SCHEMES.get((scheme or "").lower()), client)


def _farthest(values: Sequence[str], depth: int) -> str | None:
    """Return what the farthest of `depth` trusted proxies said; proxies that don't add to a list replace it."""
    return values[max(0, len(values) - depth)] if values else None


def _bare(text: str) -> str:
    """Strip the port from an address, as in `192.0.2.1:4711` and `[2001:db8::1]:4711`."""
    text = text.strip().strip('"')
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found
