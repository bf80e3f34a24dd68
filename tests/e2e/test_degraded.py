"""Wrong surroundings: each is told in conditions and events within half a minute, with what to do, and heals when mended."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from e2e.installed import Installed
from e2e.space import Space
from e2e.stage import Stage

#: Twice what is promised: the machine that runs this may be slow.
_TOLD = timedelta(seconds=2 * 30)
_HEALED = 240  # seconds; with the time that a model takes to start
#: Cases that are played at a time: the pods of all at once would wait for the processor rather than for what is wrong.
_AT_ONCE = 4
_Mend = Callable[[Space, Space], None]


class Wrong(NamedTuple):
    """What is wrong, how it must be told, and who mends it. `admin` is a namespace whose client may do all at the broker."""

    reason: str
    words: str
    mend: _Mend
    changed: Mapping[str, Any] = MappingProxyType({})
    before: _Mend = lambda space, admin: space.jwt()


def _addressed(space: Space, _: Space) -> None:
    """The Service `kafka` gets the broker behind it."""
    host, port = space.stage.kafka.address.split(":")
    label = {"kubernetes.io/service-name": "kafka"}
    space.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kafka", "labels": label},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [host]}],
            "ports": [{"name": "", "port": int(port), "protocol": "TCP"}],
        }
    )


def _broker_to_be(space: Space, _: Space) -> None:
    """The Service `kafka`, that leads nowhere."""
    space.jwt()
    spec = {"ports": [{"port": 9092}]}
    space.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kafka"}, "spec": spec})


def _user(password: str, name: str = "admin") -> _Mend:
    def make(space: Space, _: Space) -> None:
        space.jwt()
        space.secret("kafka", username=name, password=password)

    return make


def _corrected(**changed: Any) -> _Mend:
    """Its author corrects the resource."""
    return lambda space, _: space.apply(space.gateway(**changed))


def _narrow(space: Space, admin: Space) -> None:
    space.jwt()
    admin.run("kafka", servers=space.stage.kafka.address, topic=f"{space.name}.digits.results", partitions=1)


def _quota(space: Space, _: Space) -> None:
    space.jwt()
    spec = {"hard": {"pods": "0"}}
    space.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": spec})


def _cases(stage: Stage) -> dict[str, Wrong]:
    password = {
        "kafka__sasl": {"secretName": "kafka", "mechanism": "PLAIN"},
        "kafka__bootstrapServers": stage.kafka.addresses["SASL_PLAINTEXT"],
    }
    known = stage.kafka.PLAIN_USERS
    quick = {"inference__probes": {"startup": {"period": "1s", "failureThreshold": 5}}}
    deaf = ["sh", "-c", "trap 'exit 143' TERM; while :; do sleep 1; done"]
    return {
        "no broker": Wrong(
            "BrokerUnreachable", ".svc:9092", _addressed, {"kafka__bootstrapServers": "kafka:9092"}, _broker_to_be
        ),
        "a wrong password": Wrong(
            "AuthenticationFailed", "kafka", _user(known["admin"]), password, _user("not the password")
        ),
        "no permission at the broker": Wrong(
            "NotAuthorized",
            "grant its user",
            lambda space, admin: admin.run("kafka", servers=space.stage.kafka.address, user="app"),
            password,
            _user(known["app"], "app"),
        ),
        "a Secret that is missing": Wrong(
            "SecretMissing",
            "digits-auth",
            lambda space, _: space.jwt(),
            before=lambda space, _: None,
        ),
        "results in too few partitions": Wrong(
            "RepartitionRefused",
            "allowRepartition",
            _corrected(kafka__allowRepartition=True, kafka__adoptTopics=True),
            {"kafka__adoptTopics": True},  # or it is somebody else's, and used as it is
            before=_narrow,
        ),
        "an image that can't be pulled": Wrong(
            "ImagePullBackOff", "registry.example/none:1", _corrected(), {"inference__image": "registry.example/none:1"}
        ),
        "an image that never starts": Wrong(
            "CrashLoopBackOff", "kubectl logs", _corrected(), {"inference__command": ["python3", "-c", "raise SystemExit(3)"]}
        ),
        "a model that is slow to be ready": Wrong(
            "ModelLoading", "has not reported ready", _corrected(), {"inference__command": deaf}
        ),
        "a model that never gets ready": Wrong(
            "ModelNotReady", "inference.probes.startup", _corrected(), {"inference__command": deaf} | quick
        ),
        "no node for its pods": Wrong(
            "Unschedulable",
            "add nodes",
            lambda space, _: space.kubectl("label", "nodes", "--all", f"podpair.dev/{space.name}=yes") and None,
            {"inference__podTemplate": lambda space: {"spec": {"nodeSelector": {f"podpair.dev/{space.name}": "yes"}}}},
        ),
        "a quota": Wrong(
            "QuotaExceeded", "raise the quota", lambda space, _: space.kubectl("delete", "quota", "none") and None, before=_quota
        ),
    }  # fmt: skip


def _told(space: Space, wrong: Wrong) -> datetime | None:
    """When an event told it, where a condition tells it now: Degraded, or Ready while nothing is known to be wrong."""
    conditions = [space.condition("Degraded"), space.condition("Ready")]
    if not any(one["reason"] == wrong.reason and wrong.words in one["message"] for one in conditions):
        return None
    events = space.items("events", "--field-selector", "involvedObject.kind=InferenceGateway")
    told = [one for one in events if one["reason"] == wrong.reason and wrong.words in one["message"]]
    return min((datetime.fromisoformat(one["firstTimestamp"] or one["eventTime"]) for one in told), default=None)


def _play(space: Space, admin: Space, wrong: Wrong) -> None:
    wrong.before(space, admin)
    changed = {name: value(space) if callable(value) else value for name, value in wrong.changed.items()}
    began = datetime.now(UTC)
    space.apply(space.gateway(**changed))
    moments: list[datetime] = []

    def told() -> bool:
        moment = _told(space, wrong)
        moments.extend([moment] if moment else [])
        return bool(moments)

    space.until(told, f"it is told: {wrong.reason}: {wrong.words}", 120)
    assert moments[0] - began <= _TOLD, f"told after {moments[0] - began}"
    wrong.mend(space, admin)
    space.ready(_HEALED)
    space.until(lambda: space.condition("Degraded")["status"] == "False", "nothing is wrong any more", 180)
    space.kubectl("delete", "igw", "digits", "--wait=false")  # others need the processor


def test_each_is_told_and_heals(stage: Stage, make_space: Callable[[], Space], operator: Installed) -> None:
    cases = _cases(stage)
    admin = make_space()
    admin.client()
    spaces = [make_space() for _ in cases]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        playing = [
            threads.submit(_play, space, admin, wrong) for space, wrong in zip(spaces, cases.values(), strict=True)
        ]
    failures = {name: str(one.exception()) for name, one in zip(cases, playing, strict=True) if one.exception()}
    assert not failures, "\n\n".join(f"=== {name}: {why}" for name, why in failures.items())
