"""A copy of the broker's credentials, so that topics can be deleted at the end even if the Secret goes before the resource.

`helm uninstall` deletes Secrets first, and a namespace all at once. While `kafka.deletionPolicy` is Delete the operator keeps
them in the Secret NAME-broker: without an owner, with which a foreground deletion would delete it, and
with a finalizer, so that it is there until the topics are gone. It is written before the first topic is created.
"""

from podpair.operator.controller.applier import problem_from_error
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.credentials import (
    FINALIZER,
    Credentials,
    MissingSecret,
    copied_credentials,
    credential_copy,
    credential_copy_name,
    is_credential_copy,
)
from podpair.operator.core.pod_diagnosis import Problem
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.informer import Informers, Key
from podpair.operator.kube.kinds import SECRET

_NONE = Credentials()


class CredentialCopies:
    """The copies of all resources."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._informers = informers

    async def store(
        self, gateway: InferenceGateway, credentials: Credentials | MissingSecret, *, accepted: bool
    ) -> list[Problem]:
        """Keep what the deletion will need, if anything; returns what prevented that.

        Credentials that are missing, or that the broker has not `accepted` yet, leave a copy as it is: it is of ones that were.
        Raises ApiError if the server is busy or fails, NotLeading.
        """
        key = gateway.metadata.namespace, gateway.metadata.name
        named = f"Secret {credential_copy_name(key[1])}"
        try:
            if gateway.spec.kafka.deletion_policy != "Delete" or credentials == _NONE:
                await self.remove(key)
            elif isinstance(credentials, Credentials) and not await self._store(gateway, credentials, accepted):
                return [
                    Problem("NameConflict", f"there is a {named} that is not this resource's: rename one of the two")
                ]
        except ApiError as error:
            return [problem_from_error(error, named)]
        return []

    def read(self, gateway: InferenceGateway) -> Credentials | None:
        """Return what was stored for the broker that the resource names; None: nothing."""
        stored = self._find((gateway.metadata.namespace, gateway.metadata.name))
        return copied_credentials(stored, gateway) if stored is not None else None

    async def remove(self, key: Key) -> None:
        """Delete the copy. Raises ApiError, NotLeading."""
        stored = self._find(key)
        if stored is None:
            return
        await self._client.delete(SECRET, stored)
        metadata = stored["metadata"]
        others = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
        change = {"metadata": {"finalizers": others, "uid": metadata["uid"]}}
        try:
            await self._client.merge(SECRET.path(key[0], metadata["name"]), change)
        except ApiError as error:
            if error.status != 404 and error.reason != "Conflict":  # it is gone, or was replaced
                raise

    def _find(self, key: Key) -> Manifest | None:
        return next((one for one in self._informers.list(SECRET, *key) if is_credential_copy(one, key[1])), None)

    async def _store(self, gateway: InferenceGateway, credentials: Credentials, accepted: bool) -> bool:
        """Write the copy; False: the name is taken by somebody else's Secret."""
        wanted = credential_copy(gateway, credentials)
        path = SECRET.path(gateway.metadata.namespace, wanted["metadata"]["name"])
        stored = self._find((gateway.metadata.namespace, gateway.metadata.name))
        if stored is None:
            stored = await self._client.get(path)
            if stored is None:
                await self._client.create(SECRET, wanted)
                return True
        if not is_credential_copy(stored, gateway.metadata.name):
            return False
        if accepted and stored.get("data") != wanted["data"]:
            # One that somebody has deleted is held by its finalizer, and as good as any other.
            await self._client.merge(path, {"data": dict.fromkeys(stored.get("data") or {}) | wanted["data"]})
        return True
