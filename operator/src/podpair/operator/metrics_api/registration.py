"""Registers the external metrics API: its certificate in a Secret, the server, and the APIService that leads to it.

The Secret is the source: every operator serves with it, and polls it, so that a certificate is replaced without a restart.
Only the operator that leads writes. An APIService that leads to somebody else is left alone, and polled: it may go.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from podpair.operator.core.api_service import PATH, Place, api_service, needs_apply, owner_of, state_of
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.external_api_state import ExternalApiState, Reason
from podpair.operator.core.front_proxy import PATH as FRONT_PROXY_PATH
from podpair.operator.core.front_proxy import FrontProxy, NoFrontProxy, read_front_proxy
from podpair.operator.core.installation_owner import owned_by, owner_path
from podpair.operator.metrics_api.certificates import ServingCertificate, read_certificate, renewed
from podpair.operator.metrics_api.server import MetricsServer

_SECONDS, _SOON = 30.0, 3.0  # between two polls: when all is well, and when it isn't yet
_OFF = "PODPAIR_OPERATOR_METRICS_API__ENABLED is never: HorizontalPodAutoscalers see cpu only"
_log = logging.getLogger(__name__)


class Kube(Protocol):
    """The requests to the Kubernetes API."""

    async def get(self, path: str) -> Manifest | None:
        """GET; None: it isn't there."""

    async def apply(self, path: str, manifest: Manifest) -> Manifest:
        """Server-side apply."""


class NotYet(Exception):
    """What is needed isn't there yet. The text says what."""


@dataclass(frozen=True, slots=True)
class Registration:
    """How the API is registered."""

    place: Place
    """The Service that leads to the operators."""
    secret: str
    """The name of the Secret with the certificate, in the Service's namespace."""
    enabled: Literal["auto", "always", "never"] = "auto"
    owner: str | None = None
    """The ClusterRole that owns what is written, so that it goes with the installation."""
    client_ca: Path | None = None
    """Of the front proxy; None: as the cluster says."""


class ExternalMetricsApi:
    """`run` it on every operator; `state` is for the condition Scaling.

    Args:
        kube: Requests to the Kubernetes API.
        server: Answers the requests for metrics.
        registration: Where and how it is registered.
        leading: Tells whether this operator writes.
        on_change: Called when `state` changes.
        now: The time, for the certificate.
    """

    def __init__(
        self,
        kube: Kube,
        server: MetricsServer,
        registration: Registration,
        leading: Callable[[], bool] = lambda: True,
        on_change: Callable[[], None] = lambda: None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        place, secret = registration.place, registration.secret
        self._kube, self._server, self._place = kube, server, place
        self._secret_path = f"/api/v1/namespaces/{place.namespace}/secrets/{secret}"
        self._secret = secret
        self._enabled = registration.enabled
        self._owner = registration.owner
        self._client_ca = registration.client_ca
        self._leading, self._on_change, self._now = leading, on_change, now
        off = self._enabled == "never"
        self.state = ExternalApiState(False, Reason.OFF if off else Reason.NOT_YET, _OFF if off else "starting")

    async def run(self) -> None:
        """Sync until cancelled. No error ends it."""
        if self._enabled == "never":
            return
        try:
            while True:
                await self.sync()
                well = self.state.reason in (Reason.SERVED, Reason.OWNED_BY_OTHER)
                await asyncio.sleep(_SECONDS if well else _SOON)
        finally:
            await self._server.stop()

    async def sync(self) -> None:
        """Sync once."""
        try:
            state = await self._sync()
        except (NotYet, NoFrontProxy) as error:
            state = ExternalApiState(False, Reason.NOT_YET, str(error))
        except Exception as error:  # an error of the API server or the network: retried
            _log.warning("the metrics API can't be registered: %s", error or type(error).__name__)
            state = ExternalApiState(False, Reason.NOT_YET, f"the metrics API can't be registered now: {error}")
        if state != self.state:
            _log.info("external metrics: %s", state.message, extra={"reason": str(state.reason)})
            self.state = state
            self._on_change()

    async def _sync(self) -> ExternalApiState:
        found = await self._kube.get(PATH)
        if found is not None and owner_of(found) != self._place and self._enabled == "auto":
            return state_of(found, self._place)
        certificate = await self._certificate()
        await self._server.serve(certificate, await self._front_proxy())
        if self._leading():
            wanted = api_service(self._place, certificate.ca, await self._owner_found())
            if needs_apply(found, wanted):
                found = await self._kube.apply(PATH, wanted)
        return state_of(found, self._place)

    async def _certificate(self) -> ServingCertificate:
        found = read_certificate(await self._kube.get(self._secret_path))
        if self._leading() and (better := renewed(found, self._place.hosts, self._now())) is not None:
            manifest = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": self._secret,
                    "namespace": self._place.namespace,
                    "labels": {"app.kubernetes.io/managed-by": "podpair-operator"},
                }
                | owned_by(await self._owner_found()),
                "type": "Opaque",
                "data": better.data(),
            }
            found = read_certificate(await self._kube.apply(self._secret_path, manifest))
        if found is None:
            raise NotYet(f"Secret {self._place.namespace}/{self._secret} has no certificate yet")
        return found

    async def _front_proxy(self) -> FrontProxy:
        if self._client_ca is not None:
            return FrontProxy(await asyncio.to_thread(self._client_ca.read_text, "utf-8"), ())
        return read_front_proxy(await self._kube.get(FRONT_PROXY_PATH))

    async def _owner_found(self) -> Manifest | None:
        """Return the installation's ClusterRole; None: none is named. Raises NotYet if it isn't there.

        `helm uninstall` deletes it while the operator still runs: what was written without it would stay for ever.
        """
        if self._owner is None:
            return None
        found = await self._kube.get(owner_path(self._owner))
        if found is None:
            raise NotYet(
                f"ClusterRole {self._owner}, which owns the APIService and its Secret, isn't there: uninstalled?"
            )
        return found
