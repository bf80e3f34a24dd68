"""Requests to the Kubernetes API.

The kubernetes library says where the server is and who we are (kubeconfig, service account, tokens that rotate); requests
go through aiohttp, so that watches and writes share one loop, and every one is counted. A write is sent only while the
fence allows it, and never waits for an answer beyond what the fence allows.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
import kubernetes.client
import kubernetes.config

from podpair.operator.core.builders.naming import Manifest
from podpair.operator.kube.kinds import Resource
from podpair.operator.metrics import Metrics

_log = logging.getLogger(__name__)
FIELD_MANAGER = "podpair-operator"
_LONGEST_WAIT = 3600.0
_SECONDS = 10.0  # for a request that isn't a watch
_PAGE = 500
_PASSING = (408, 409, 429, 502, 503, 504)
_APPLY, _MERGE, _JSON = "application/apply-patch+yaml", "application/merge-patch+json", "application/json"

Fence = Callable[[], float]
"""Seconds for which writing is still allowed; raises NotLeading."""


class NotLeading(Exception):
    """Another operator holds the Lease, or may hold it: nothing may be written."""


class NoCluster(Exception):
    """There is neither a service account nor a kubeconfig."""


class ApiError(Exception):
    """The API server refused a request. `status` is HTTP's, `reason` Kubernetes' (AlreadyExists, Forbidden, Invalid, …)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        """Seconds after which the server allows a retry, if it says so."""

    @property
    def passing(self) -> bool:
        """Whether it is no answer: the server is busy, fails or is away, or another was faster.

        Two kinds of 500 are answers: server-side apply says so, without a reason, of a field that there is not, and a webhook
        that does not answer is an InternalError that lasts.
        """
        if self.status == 500:
            return self.reason == "InternalError" and "failed calling webhook" not in str(self)
        return self.status in _PASSING


class Client:
    """Requests of one process; `start` it within the loop. `fence` guards writes, unless they say otherwise."""

    def __init__(self, metrics: Metrics, configuration: Any | None = None) -> None:
        self._metrics = metrics
        self._configuration = configuration or _configuration()
        self._session: aiohttp.ClientSession | None = None
        self.server = str(self._configuration.host).rstrip("/")
        self.fence: Fence = lambda: _SECONDS

    async def start(self) -> None:
        """Open the connections' pool."""
        self._session = self.session()

    async def stop(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def session(self, *more: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        """Return a session of the caller's own with the same credentials; its requests are counted too."""
        connector = aiohttp.TCPConnector(limit=0, ssl=self._ssl())
        return aiohttp.ClientSession(connector=connector, middlewares=(*more, self._authorize))

    def _ssl(self) -> ssl.SSLContext:
        wanted = self._configuration
        context = ssl.create_default_context(cafile=wanted.ssl_ca_cert)
        if wanted.cert_file:
            context.load_cert_chain(wanted.cert_file, wanted.key_file)
        if not wanted.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        # Read each time: the library reloads a token that rotates when it is due.
        token = self._configuration.get_api_key_with_prefix(
            "BearerToken"
        ) or self._configuration.get_api_key_with_prefix("authorization")
        if token:
            request.headers["Authorization"] = token
        code = "<error>"
        try:
            response = await handler(request)
            code = str(response.status)
        finally:
            self._metrics.requests.labels(code, request.method).inc()
        return response

    async def get(self, path: str, **parameters: str) -> Manifest | None:
        """GET; None: there is no such object, or kind. Raises ApiError."""
        try:
            return await self._call("GET", path, parameters)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def pages(self, path: str, **parameters: str) -> AsyncIterator[Manifest]:
        """Yield a list, page by page. Raises ApiError."""
        parameters = {**parameters, "limit": str(_PAGE)}
        while True:
            page = await self._call("GET", path, parameters)
            yield page
            if not (following := page["metadata"].get("continue")):
                return
            parameters["continue"] = following

    async def watch(self, path: str, seconds: float, **parameters: str) -> AsyncIterator[Manifest]:
        """Yield the events of a watch that the server ends after `seconds`, bookmarks among them.

        The first item, {}, means that the watch has begun. Raises ApiError; TimeoutError if it is silent for longer than that.
        """
        parameters = {**parameters, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": f"{seconds:.0f}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SECONDS, sock_read=seconds + _SECONDS)
        async with self._opened().get(self.server + path, params=parameters, timeout=timeout) as response:
            await _refused(response)
            yield {}
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    async def apply(self, path: str, manifest: Manifest, *, manager: str = FIELD_MANAGER) -> Manifest:
        """Server-side apply: what `manifest` says is so from now on, whoever said otherwise. Raises ApiError, NotLeading."""
        parameters = {"fieldManager": manager, "force": "true"}
        return await self._write("PATCH", path, parameters, manifest, _APPLY)

    async def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """POST: never changes what is there already. Raises ApiError (AlreadyExists), NotLeading."""
        path = resource.path(manifest["metadata"]["namespace"])
        return await self._write("POST", path, {"fieldManager": FIELD_MANAGER}, manifest, _JSON)

    async def merge(self, path: str, change: Mapping[str, Any]) -> Manifest:
        """Send a merge patch. Raises ApiError, NotLeading."""
        return await self._write("PATCH", path, {"fieldManager": FIELD_MANAGER}, change, _MERGE)

    async def replace(self, path: str, manifest: Manifest) -> Manifest:
        """PUT, outside the fence: with its resourceVersion it fails if another write came first. Raises ApiError."""
        return await self._call("PUT", path, {}, manifest, _JSON)

    async def create_unfenced(self, path: str, manifest: Manifest) -> Manifest:
        """POST, outside the fence, for what decides about the fence. Raises ApiError."""
        return await self._call("POST", path, {}, manifest, _JSON)

    async def delete(self, resource: Resource, manifest: Manifest) -> None:
        """Delete exactly this object, and not one that was made under its name since. Raises ApiError, NotLeading."""
        metadata = manifest["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"])
        options = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        try:
            await self._write("DELETE", path, {}, options, _JSON)
        except ApiError as error:
            if error.status not in (404, 409):  # gone already, or replaced
                raise

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client has not been started")
        return self._session

    async def _write(
        self, method: str, path: str, parameters: dict[str, str], body: Any, content_type: str
    ) -> Manifest:
        try:
            async with asyncio.timeout(min(self.fence(), _SECONDS)):
                return await self._call(method, path, parameters, body, content_type)
        except TimeoutError:
            self.fence()
            raise

    async def _call(
        self, method: str, path: str, parameters: Mapping[str, str], body: Any = None, content_type: str = _JSON
    ) -> Manifest:
        async with self._opened().request(
            method,
            self.server + path,
            params=parameters,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type} if body is not None else None,
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
        ) as response:
            await _refused(response)
            answer: Manifest = await response.json()
            return answer


async def _refused(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        status = json.loads(text)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    after = response.headers.get("Retry-After") or (status.get("details") or {}).get("retryAfterSeconds")
    raise ApiError(
        response.status,
        status.get("reason") or response.reason or str(response.status),
        status.get("message") or text[:500],
        retry_after(after),
    )


def retry_after(value: object) -> float | None:
    """Seconds that the API server asks to wait, an hour at most; None: it asks for nothing, or for a date."""
    text = str(value).strip()
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdecimal() else None


def _configuration() -> Any:
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kubernetes.config.ConfigException:
        try:
            kubernetes.config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (kubernetes.config.ConfigException, OSError) as error:
            raise NoCluster(
                f"there is neither a pod's service account nor a kubeconfig (KUBECONFIG): {error}"
            ) from None
    return configuration
