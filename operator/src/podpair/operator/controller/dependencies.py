"""What a resource's objects depend on besides the resource: the Secrets and ConfigMaps it names, and its resume key.

The key is made once and kept: with another one every client would lose its session. An operator that knows it restores it
if its Secret was deleted or edited; one that starts reads it from there.
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from podpair.operator.controller.applier import Applier
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.builders.references import missing, references_of
from podpair.operator.core.builders.settings import RESUME_KEY, resume_files
from podpair.operator.core.credentials import Credentials, CredentialsRefused, MissingSecret, read_credentials
from podpair.operator.core.desired import Dependencies, checksum_of, resume_secret
from podpair.operator.core.pod_diagnosis import Problem
from podpair.operator.core.policy import Policy, credential_faults, pod_field_faults
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.informer import Informers, Key
from podpair.operator.kube.kinds import POD_MONITOR, PROMETHEUS_RULE, SECRET
from podpair.operator.kube.reference_informers import Reference, ReferenceInformers, contents

_SHORTEST_KEY = 32


@dataclass(frozen=True)
class ResolvedDependencies:
    """The dependencies of a resource, and what is wrong with them."""

    dependencies: Dependencies
    faults: list[Problem]
    """References that don't exist."""
    credentials: Credentials | MissingSecret
    """For its broker."""
    forbidden: list[Problem]
    """What the installation's policy forbids of it: while there is any, nothing is written but the status."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is read of the cluster, and written to it."""

    client: Client
    informers: Informers
    references: ReferenceInformers
    applier: Applier


@dataclass(frozen=True, slots=True)
class Installation:
    """What this operator's installation says of all resources."""

    image: str
    """The gateway's, if a resource names none."""
    namespace: str
    """The operator's own."""
    policy: Policy


class DependencyResolver:
    """Finds what resources depend on."""

    def __init__(self, cluster: Cluster, installation: Installation) -> None:
        self._client = cluster.client
        self._informers = cluster.informers
        self._references = cluster.references
        self._applier = cluster.applier
        self._image = installation.image
        self._namespace = installation.namespace
        self._policy = installation.policy
        self._keys: dict[str, str] = {}  # by the resource's uid

    async def resolve(self, gateway: InferenceGateway) -> ResolvedDependencies:
        """Return the dependencies as they are now. Raises ApiError, NotLeading."""
        key = gateway.metadata.namespace, gateway.metadata.name
        wanted = references_of(gateway)
        found = await self._references.track(key, {Reference(one.kind, key[0], one.name) for one in wanted})
        held = {(reference.kind, reference.name): contents(one) for reference, one in found.items() if one is not None}
        faults = [Problem("NotPermitted", message) for message in self._references.errors(key)]
        if not faults:
            lacking = [(one.kind, missing(one, key[0], held.get((one.kind, one.name)))) for one in wanted]
            faults = [Problem(f"{kind}Missing", message) for kind, message in lacking if message is not None]
        credentials = self._credentials(gateway, found)
        forbidden = [Problem("PodTemplateForbidden", message) for _, message in pod_field_faults(gateway, self._policy)]
        if isinstance(credentials, CredentialsRefused):
            forbidden.append(Problem(credentials.reason, str(credentials)))
        return ResolvedDependencies(
            Dependencies(
                gateway_image=self._image,
                resume_key=await self._resume_key(gateway),
                secrets=_checksums(held, "Secret"),
                config_maps=_checksums(held, "ConfigMap"),
                pod_monitors=self._informers.is_served(POD_MONITOR),
                prometheus_rules=self._informers.is_served(PROMETHEUS_RULE),
                operator_namespace=self._namespace,
            ),
            list(dict.fromkeys(faults)),
            credentials,
            forbidden,
        )

    async def credentials(self, gateway: InferenceGateway) -> Credentials | MissingSecret:
        """Return the credentials for the resource's broker while the resource is being deleted. Raises ApiError."""
        key = gateway.metadata.namespace, gateway.metadata.name
        wanted = {Reference(one.kind, key[0], one.name) for one in references_of(gateway) if "kafka" in one.field}
        found = await self._references.track(key, wanted)
        return self._credentials(gateway, found)

    def _credentials(
        self, gateway: InferenceGateway, found: Mapping[Reference, Manifest | None]
    ) -> Credentials | MissingSecret:
        secrets = {one.name: there for one, there in found.items() if there is not None and one.kind == "Secret"}
        labels = {name: there["metadata"].get("labels") or {} for name, there in secrets.items()}
        if refused := credential_faults(gateway, labels, self._policy):
            return CredentialsRefused("; ".join(refused))
        try:
            return read_credentials(gateway, {name: contents(there) for name, there in secrets.items()})
        except MissingSecret as error:
            return error

    async def forget(self, key: Key, uid: str | None) -> None:
        """Drop what is known of a resource that is gone."""
        await self._references.track(key, ())
        self._keys.pop(uid or "", None)

    async def _resume_key(self, gateway: InferenceGateway) -> str:
        uid = gateway.metadata.uid or ""
        if uid not in self._keys:
            name = resume_files(gateway).secret
            stored = [one for one in self._applier.current(SECRET, gateway) if one["metadata"]["name"] == name]
            key = read_resume_key(stored[0]) if stored else None
            self._keys[uid] = key or await self._make(gateway)
        return self._keys[uid]

    async def _make(self, gateway: InferenceGateway) -> str:
        made = secrets.token_urlsafe(_SHORTEST_KEY)
        manifest = resume_secret(gateway, made)
        try:
            await self._client.create(SECRET, manifest)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                path = SECRET.path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
                stored = await self._client.get(path)
                return (read_resume_key(stored) if stored is not None else None) or made
            if error.passing:
                raise  # anything else is reported when the Secret is applied
        return made


def read_resume_key(secret: Mapping[str, object]) -> str | None:
    """Return the key in a Secret; None: there is none that can be used."""
    data = secret.get("data")
    text = data.get(RESUME_KEY, "") if isinstance(data, Mapping) else ""
    try:
        key = base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return key if len(key) >= _SHORTEST_KEY else None


def _checksums(held: Mapping[tuple[str, str], Mapping[str, bytes]], kind: str) -> dict[str, str]:
    return {name: checksum_of(data) for (found, name), data in held.items() if found == kind}
