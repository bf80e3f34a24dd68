"""Resources made from the CRD's schema, at a real API server with the real CRDs of others: what it says of each, and of all that
the operator makes of it, is what `podpair validate` and the operator say.

`make test-resources` tries 300 of them.
"""

import http.client
import json
import os
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from harness import foreign_crds
from harness.generated_resources import generated
from harness.kubernetes import ApiServer
from harness.verdicts import objects, of_its_configuration, verdict
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.kube.kinds import resource_of

NUMBERS = range(int(os.environ.get("PODPAIR_RESOURCES_AT_API", "60")))
MANAGER = "dryRun=All&fieldValidation=Strict&force=true&fieldManager=podpair-operator"


class Api:
    """An API server that tries objects, and stores none."""

    def __init__(self, cluster: ApiServer, namespace: str) -> None:
        self.namespace = namespace
        self._headers = {"Authorization": cluster.authorization}
        self._connection = http.client.HTTPSConnection(
            urlsplit(cluster.url).netloc, context=ssl._create_unverified_context(), timeout=60
        )

    def create(self, made: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Why it is refused, and how it would be stored."""
        path = f"/apis/podpair.dev/v1alpha1/namespaces/{self.namespace}/inferencegateways"
        return self._call("POST", f"{path}?dryRun=All&fieldValidation=Strict", made, "application/json")

    def apply(self, one: dict[str, Any]) -> str | None:
        """Why an object is refused that the operator applies."""
        path = resource_of(one).path(self.namespace, one["metadata"]["name"])
        return self._call("PATCH", f"{path}?{MANAGER}", one, "application/apply-patch+yaml")[0]

    def close(self) -> None:
        self._connection.close()

    def _call(self, method: str, path: str, body: Any, kind: str) -> tuple[str | None, dict[str, Any]]:
        self._connection.request(method, path, json.dumps(body), {**self._headers, "Content-Type": kind})
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        return (None, answer) if response.status < 300 else (f"{response.status}: {answer.get('message')}", answer)


@pytest.fixture
def api(cluster: ApiServer, namespace: str) -> Iterator[Api]:
    for file in foreign_crds.files():
        cluster.kubectl("apply", "--server-side", "-f", str(file))
    for name in foreign_crds.NAMES:
        cluster.await_kind(name)
    asked = Api(cluster, namespace)
    yield asked
    asked.close()
    cluster.kubectl("delete", "crd", *foreign_crds.NAMES)


def disagreements(api: Api, made: dict[str, Any]) -> list[str]:
    """Where what the API server says is something else than what is said without one."""
    said = verdict(made)
    refused, stored = api.create(made)
    if (refused is None) != (said.gateway is not None):
        return [f"the API server: {refused or 'good'}; the operator: {(said.fields + said.rules) or 'good'}"]
    if refused is not None:
        return []
    gateway = InferenceGateway.model_validate(stored)
    made_of_it = objects(gateway)
    refusals = [f"{one['kind']}: {why}" for one in made_of_it if (why := api.apply(one)) is not None]
    found = of_its_configuration(gateway)
    # What is taken and then stands still, or doesn't start, is refused without a cluster, too.
    unseen = ("requests no CPU", "kafka.client.", "spec.gateway.env")
    strict = [fault for fault in said.validate if not any(one in fault for one in unseen)]
    if (refusals and not said.validate) or (strict and not refusals):
        found.append(f"validate: {said.validate or 'good'}; the API server, of the objects: {refusals or 'good'}")
    if said.gateway is not None and gateway.spec != said.gateway.spec:
        found.append("it is read as another where the API server has filled in its defaults")
    return found


def test_nobody_disagrees_with_the_api_server(api: Api) -> None:
    found = {}
    for number in NUMBERS:
        made = generated(number)
        made["metadata"]["namespace"] = api.namespace
        if told := disagreements(api, made):
            found[number] = told
    assert found == {}
