"""The cluster of the kubeconfig, as the commands ask it.

An error is printed as one sentence, and ends the command.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click
import kubernetes.client
import kubernetes.config
import urllib3

from podpair.operator.core.builders.naming import Manifest

_SECONDS = (5.0, 30.0)  # to connect, and to be answered
_MANAGER = "podpair-operator"
_JSON = "application/json"


class NotThere(Exception):
    """There is no such object, or no such kind."""


class Cluster:
    """API requests with the kubeconfig's identity. Raises NotThere; every other refusal ends the command with 2."""

    def __init__(self) -> None:
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            _, context = kubernetes.config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
        except (kubernetes.config.ConfigException, OSError) as error:
            _give_up(f"there is no cluster to ask: {error} (KUBECONFIG, or ~/.kube/config)")
        configuration.retries = 0
        # insecure-skip-tls-verify in the kubeconfig was a decision: no warning for each request.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.namespace = str(context["context"].get("namespace") or "default")
        """Where the kubeconfig's context is."""
        self._server = configuration.host
        self._api = kubernetes.client.ApiClient(configuration)

    def get(self, path: str, **parameters: str) -> Manifest:
        """GET. Raises NotThere."""
        return self._call("GET", path, parameters)

    def find(self, path: str, **parameters: str) -> Manifest | None:
        """GET; None: it isn't there."""
        try:
            return self.get(path, **parameters)
        except NotThere:
            return None

    def dry_run(self, path: str, manifest: Manifest) -> Manifest:
        """Return the object as it would be if the operator applied it. Raises NotThere."""
        parameters = {"fieldManager": _MANAGER, "force": "true", "dryRun": "All"}
        return self._call("PATCH", path, parameters, manifest, "application/apply-patch+yaml")

    def try_to_store(self, collection: str, manifest: Manifest) -> None:
        """Check that the API server accepts an object as it is: as an update if it has a resourceVersion, else as a new one.

        Raises NotThere.
        """
        if "resourceVersion" in manifest["metadata"]:
            self._call("PUT", f"{collection}/{manifest['metadata']['name']}", {"dryRun": "All"}, manifest, _JSON)
        else:
            self._call("POST", collection, {"dryRun": "All"}, manifest, _JSON)

    def _call(
        self, method: str, path: str, parameters: Mapping[str, str], body: Any = None, content_type: str | None = None
    ) -> Manifest:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if content_type else {})
        request = self._api.param_serialize(
            method,
            path,
            query_params=list(parameters.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*request, _request_timeout=_SECONDS)
            answered = response.read()  # type: ignore[no-untyped-call]
        except urllib3.exceptions.HTTPError as error:
            _give_up(f"the API server at {self._server} doesn't answer: {getattr(error, 'reason', None) or error}")
        if response.status == 404:
            raise NotThere(_message(response.status, answered))
        if response.status >= 400:
            _give_up(f"{method} {path}: {_message(response.status, answered)}")
        answer: Manifest = json.loads(answered)
        return answer


def _message(status: int, answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (TypeError, ValueError, KeyError):
        return f"HTTP {status}"


def _give_up(message: str) -> NoReturn:
    click.echo(f"podpair: {message}", err=True)
    sys.exit(2)
