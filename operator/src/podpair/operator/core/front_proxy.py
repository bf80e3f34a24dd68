"""Who may ask the external metrics API: the API server, by the client certificate with which it passes requests on.

The cluster publishes the authority of that certificate, and the names that it may have. The API server has checked who asks,
and whether they may, before it passes a request on; nobody else is answered.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PATH = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"


class NoFrontProxy(Exception):
    """The cluster doesn't publish it: aggregation is off."""


class FrontProxy(NamedTuple):
    """The authority (PEM) that the API server's certificate is signed by, and its names; none: any."""

    ca_pem: str
    names: tuple[str, ...]

    def admits(self, certificate: Mapping[str, Any] | None) -> bool:
        """Return whether a client certificate, as ssl's getpeercert returns it, is the API server's."""
        if not certificate:
            return False
        subject: Sequence[Sequence[Sequence[str]]] = certificate.get("subject", ())
        names = {value for part in subject for key, value in part if key == "commonName"}
        return not self.names or bool(names & set(self.names))


def read_front_proxy(config_map: Mapping[str, Any] | None) -> FrontProxy:
    """Read the ConfigMap that the API server publishes. Raises NoFrontProxy."""
    data = (config_map or {}).get("data") or {}
    ca = data.get("requestheader-client-ca-file")
    if not ca:
        raise NoFrontProxy(
            "ConfigMap kube-system/extension-apiserver-authentication has no requestheader-client-ca-file:"
            " the API server must run with --requestheader-client-ca-file and --proxy-client-cert-file"
        )
    try:
        names = json.loads(data.get("requestheader-allowed-names") or "[]")
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NoFrontProxy(
            "ConfigMap kube-system/extension-apiserver-authentication: requestheader-allowed-names is no list of names"
        )
    return FrontProxy(ca, tuple(names))
