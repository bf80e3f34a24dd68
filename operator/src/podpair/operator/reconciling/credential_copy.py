"""A copy of the broker's credentials, so that topics can be deleted at the end even if the Secret goes before the resource.

`helm uninstall` deletes Secrets first, and a namespace all at once. While `kafka.deletionPolicy` is Delete the operator keeps
what it shows the broker in the Secret NAME-broker: without an owner, which a foreground deletion would take it away with, and
with a finalizer, so that it is there until the topics are gone. It is written before the first topic is created.
"""

from podpair.operator.core.credentials import (
    FINALIZER,
    Credentials,
    MissingSecret,
    copied_credentials,
    credential_copy,
    credential_copy_name,
    is_credential_copy,
)
from podpair.operator.core.objects.naming import Manifest
from podpair.operator.core.problems import Problem
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.kube.caches import Caches, Key
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.kinds import SECRET
from podpair.operator.reconciling.applying import fault

_NONE = Credentials()


class CredentialCopies:
    """The copies of all resources."""

    def __init__(self, client: Client, caches: Caches) -> None:
        self._client = client
        self._caches = caches

    async def store(
        self, gateway: InferenceGateway, credentials: Credentials | MissingSecret, *, accepted: bool
    ) -> list[Problem]:
        """Keep what the end will need, or nothing where it needs nothing; what hindered that.

        Credentials that are missing, or that the broker has not `accepted` yet, leave a copy as it is: it is of ones that were.
        Raises ApiError where the server is busy or fails, NotLeading.
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
            return [fault(error, named)]
        return []

    def read(self, gateway: InferenceGateway) -> Credentials | None:
        """What was stored for the broker that the resource names; None: nothing."""
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
            if error.status != 404 and error.reason != "Conflict":  # it is gone, or is another one
                raise

    def _find(self, key: Key) -> Manifest | None:
        return next((one for one in self._caches.of(SECRET, *key) if is_credential_copy(one, key[1])), None)

    async def _store(self, gateway: InferenceGateway, credentials: Credentials, accepted: bool) -> bool:
        """False: the name is somebody else's."""
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
