"""InferenceGateways made from the CRD's own schema, by number: mostly good ones, and ones that are nearly good.

The same number always gives the same resource. What a field may be follows from its schema; the strings that a pattern takes
stand here, and a pattern that is new fails until there are some for it.
"""

import copy
import random
from collections.abc import Iterator
from typing import Any

from harness.resources import resource
from podpair.operator.core.api import deliveries, peers, scalars
from podpair.operator.core.crd import crd

Schema = dict[str, Any]
Place = tuple[str | int, ...]
SPEC: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
# What each pattern takes, by the pattern. Tests hold both to each other.
GOOD: dict[str, tuple[Any, ...]] = {
    scalars.DURATION: ("1s", "250ms", "1h30m", "5m", "40s", "99999h"),
    scalars.DURATION_OR_ZERO: ("0s", "1s", "250ms", "1h30m", "5m", "1m1s1ms"),
    scalars.QUANTITY: ("1", "500m", "2Gi", "1e3", "1.5Gi", ".5", "100u", "+2", "1.", "1E", "2E3", "0", 3, 1 << 33),
    scalars.PERCENT: ("0%", "50%", "100%", "7%", 0, 1, 5),
    scalars.NAME: ("a", "models", "a-1", "1a"),
    scalars.OBJECT_NAME: ("a", "jwt", "a.b", "a-1.b-2", "1"),
    scalars.HOST: ("digits.example", "*.example", "a", "a-b.c-d.e1", "1.2.a", "xn--p1ai"),
    scalars.LABEL_VALUE: ("", "a", "A_b.c-d", "1"),
    scalars.QUALIFIED_NAME: ("a", "example.com/a", "kubernetes.io/hostname", "a_b", "A.b-c"),
    scalars.SERVERS: ("kafka:9092", "a.b:1,c_d:65535", "127.0.0.1:9092", "[::1]:9092", "kafka.:9092"),
    scalars.SERVER_HOST: ("mail", "mail.example.", "127.0.0.1", "[::1]", "a_b"),
    deliveries.MAILBOX: ("a@b", "podpair@example.com", "a.b+c@x-y.example"),
    deliveries.CONTACT: ("mailto:ops@example.com", "https://example.com/contact"),
    deliveries.ONE_LINE: ("", "podpair", "Models, Inc.", "é"),
    scalars.URL: ("http://a", "https://u:p@login.example:8443/k?a=b#c", "http://[::1]:80/x", "https://a_b/é"),
    scalars.URL_PATH: ("/", "/a", "/a/b/", "/a%20b", "/...", "/.a/..b", "/a:b@c;d=e"),
    scalars.MOUNT_PATH: ("/models", "/a b", "/", "/é"),
    scalars.IMAGE: (
        "digits:3",
        "registry.example:5000/a/b@sha256:" + "0" * 64,
        "nvcr.io/nvidia/tritonserver:25.08-py3",
    ),
    scalars.KEY: ("a", "tls.crt", "A_b-c", ".a"),
    peers.CIDR: ("10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00:1::/64", "1:2:3:4:5:6:7:8/128", "10.0.0.1/32"),
    scalars.ORIGIN: (
        "*",
        "https://app.example",
        "http://localhost:3000",
        "http://[::1]:80",
        "chrome-extension://abc",
        "https://A_b",
    ),
    r"^[^\s#]+$": ("https://runbooks.example/podpair", "a", "/é?b=c"),
    r"^[A-Za-z0-9._-]+$": ("digits", "3", "a.b_c-D"),
    r"^[-._a-zA-Z][-._a-zA-Z0-9]*$": ("A", "PATH", "a.b", "-"),
    "^[.]*[A-Za-z0-9_-][A-Za-z0-9._-]*$": ("a", "a.requests", "b.results", "x.requests.dlq", ".a", "orders"),
    "^[A-Za-z0-9_][A-Za-z0-9._:@-]{0,199}$": ("news", "team.1:all", "_a@b-c"),
    "^([.]*[A-Za-z0-9_-][A-Za-z0-9._-]*[*]?|[*])$": ("shop.orders.requests", "team.*", "*"),
}
# What is often no good, somewhere.
ODD_TEXTS = (
    "", " ", "a b", "a..b", "-a", "a-", ".", "..", "/", "//", "/a//b", "/a b", "/a#b", "/a?b", "/a/../b", "/a/.", "/%zz",
    "/a%2Fb", "a:b", "ka!fka:9092", "a:0", "a:65536", "a:1,,b:2", "a:1, b:2", "a..b:1", "[::1", "::1", "1s1m", "0s", "0.5s",
    "1d", "01s", "-1", "+1", "1.5", "1e9", "1e400", ".5", ".", "100u", "1K", "8Ei", "-1Gi", "1 Gi", "101%", "-5%", "50", "%",
    "http://", "http:///x", "http://a b", "http://[::1", "http://a:99999", "https://a/", "HTTP://a", "https://?x", "http://.",
    "*", "*.", "*.a..b", "1.2.3.4", "é", "a\n", "\n", "a" * 64, "a" * 254, "a" * 2049, "true", "null", "_", "a_b", ",", "a,b",
    "A", "example.com/", "/b", "a/b/c", "App/x", "10.0.0.0/33", "300.0.0.0/8", "1::2::3/64", "kafka", "$(A)", "{{a}}", "\t",
)  # fmt: skip
ODD_NUMBERS = (-1, 0, 1, 2, 17, 8080, 8083, 65_535, 65_536, 10_001, 2**31 - 1, 2**31, 2**53, 10**18, 0.5, -0.5, 1001)
_LETTERS = " ./-_:%@#,[]~+*é\n0aA9"
_NAMES = (
    "cpu",
    "memory",
    "ephemeral-storage",
    "nvidia.com/gpu",
    "hugepages-2Mi",
    "a",
    "requests.a.b/c",
    "kubernetes.io/x",
)
_PROPERTIES = {
    "linger.ms": "5", "socket.keepalive.enable": "true", "client.id": "a", "linger_ms": "6", "LINGER.MS": "7", "acks": "1",
    "Group_Id": "a", "isolation.level": "read_uncommitted", "ssl_ca": "a", "queue.buffering.max.ms": "8", "a.b": "c",
    "message.timeout.ms": "9", "delivery.timeout.ms": "x", "bootstrap_servers": "a", "sasl.username": "me",
}  # fmt: skip
_KEYS = ("a", "example.com/a", "A_b", "a b", "/a", "a/", "-a", "a" * 64)
_ENV = ("A", "B", "PATH", "PODPAIR_SERVER__PORT")
_GATEWAY_ENV = {
    # Setting → what may be said of it, good and bad.
    "LIMITS__SESSIONS": ("5", "0", "x", ""), "RESULTS__USERS": ("true", "perhaps"), "SESSION__IDLE_SECONDS": ("5",),
    "HTTP__ORIGINS": ("https://a.example", "a/b", '["https://a.example"'), "TRACING__ENDPOINT": ("http://a/v1/traces", "a"),
    "LIMITS__SESION": ("5",), "CONSOLE__MINT_TOKENS": ("true", "false"), "KAFKA__CLIENT__LINGER_MS": ("5",),
    "KAFKA__CLIENT__ACKS": ("1",), "KAFKA__CLIENT_FILES__SASL_PASSWORD": ("/run/p",), "LOG": ('{"level": "warning"}', "warning"),
    "REQUESTS__EXACTLY_ONCE": ("true",), "RESULTS__TOPIC": ("a", "a b"), "SERVER__PORT": ("8081",), "SHUTDOWN_SECONDS": ("0",),
}  # fmt: skip
_PEEKED: dict[str, tuple[Any, ...]] = {
    # What stands in a place whose schema says little.
    "valueFrom": (
        {"secretKeyRef": {"name": "s", "key": "k"}}, {"configMapKeyRef": {"name": "s", "key": "k", "optional": True}},
        {"fieldRef": {"fieldPath": "metadata.name"}}, {"resourceFieldRef": {"resource": "limits.cpu"}},
    ),
    "source": (
        {"emptyDir": {}}, {"emptyDir": {"sizeLimit": "1e9"}}, {"persistentVolumeClaim": {"claimName": "models"}},
        {"configMap": {"name": "a"}}, {"secret": {"secretName": "a"}},
    ),
    "podTemplate.metadata": ({"labels": {"team": "ml"}}, {"annotations": {"a": "b"}}, {"labels": None}),
    "podTemplate.spec": (
        {"nodeSelector": {"gpu": "yes"}}, {"terminationGracePeriodSeconds": 600}, {"terminationGracePeriodSeconds": 10},
        {"terminationGracePeriodSeconds": None}, {"tolerations": [{"operator": "Exists"}]}, {"priorityClassName": "high"},
        {"containers": [{"name": "proxy", "image": "envoy", "resources": {"limits": {"cpu": "1"}}}]},
        {"containers": [{"name": "proxy", "image": "envoy"}]}, {"initContainers": [{"name": "inference", "tty": True}]},
    ),
}  # fmt: skip


def generated(number: int) -> dict[str, Any]:
    """The resource of a number."""
    dice = random.Random(number)
    made = resource()
    spec = _section(SPEC, dice, ())
    _agree(spec, dice)
    made["spec"] = spec
    made["metadata"]["name"] = dice.choice(("digits", "d", "d" * 52, "digits-2"))
    for _ in range(dice.choice((0, 0, 0, 1, 1, 2))):
        _spoil(spec, dice)
    return made


def places(schema: Schema, value: Any, place: Place = ()) -> Iterator[tuple[Place, Schema, Any]]:
    """Every field that a value has, or might have: its place, schema and value (None: it isn't there)."""
    if "properties" in schema and isinstance(value, dict):
        for name, below in schema["properties"].items():
            yield (*place, name), below, value.get(name)
            yield from places(below, value.get(name), (*place, name))
    elif "items" in schema and isinstance(value, list):
        for at, item in enumerate(value):
            yield (*place, at), schema["items"], item
            yield from places(schema["items"], item, (*place, at))


def put(spec: Any, place: Place, value: Any) -> None:
    """Sets what is at a place of a spec."""
    for step in place[:-1]:
        spec = spec.setdefault(step, {}) if isinstance(spec, dict) else spec[step]
    spec[place[-1]] = value


def _section(schema: Schema, dice: random.Random, place: Place) -> dict[str, Any]:
    needed = set(schema.get("required", ()))
    share = 0.5 if len(place) < 2 else 0.3
    return {
        name: _value(below, dice, (*place, name))
        for name, below in schema["properties"].items()
        if name in needed or dice.random() < share
    }


def _value(schema: Schema, dice: random.Random, place: Place) -> Any:
    if "enum" in schema:
        return dice.choice(schema["enum"])
    for name, values in _PEEKED.items():
        if ".".join(map(str, place)).endswith(name):
            return copy.deepcopy(dice.choice(values))
    if "properties" in schema:
        return _section(schema, dice, place)
    if "pattern" in schema:
        return dice.choice(GOOD[schema["pattern"]])
    kind = schema.get("type")
    if kind == "boolean":
        return dice.random() < 0.5
    if kind in ("integer", "number"):
        return _number(schema, dice)
    if kind == "array":
        return _list(schema, dice, place)
    if "additionalProperties" in schema:
        return _map(schema, dice, place)
    return dice.choice(("a", "sub", "tenant", "a b", "é"))


def _number(schema: Schema, dice: random.Random) -> float:
    least, most = schema.get("minimum", 0), schema.get("maximum", 1 << 40)
    if schema["type"] == "number":
        return dice.choice((least, most, 0.25))
    return int(dice.choice((least, most, *(one for one in (1, 3, 50, 100, 8081) if least <= one <= most))))


def _list(schema: Schema, dice: random.Random, place: Place) -> list[Any]:
    count = max(schema.get("minItems", 0), dice.choice((0, 1, 1, 2)))
    items = [_value(schema["items"], dice, (*place, at)) for at in range(count)]
    keys = schema.get("x-kubernetes-list-map-keys")
    if dice.random() < 0.9:
        if keys:
            items = list({tuple(item.get(key) for key in keys): item for item in items}.values())
        elif schema.get("x-kubernetes-list-type") == "set":
            items = list(dict.fromkeys(items))
    return items


def _map(schema: Schema, dice: random.Random, place: Place) -> dict[str, Any]:
    last = place[-1]
    names = (
        tuple(_PROPERTIES) if last == "client" else ("max.message.bytes", "min.insync.replicas") if last == "config"
        else _NAMES if last in ("requests", "limits") else _KEYS
    )  # fmt: skip
    usual = dice.random() < 0.85
    count = dice.choice((0, 1, 2, 3))
    chosen = [dice.choice(names[:3] if usual else names) for _ in range(count)]
    if last == "client":
        return {name: _PROPERTIES[name] for name in chosen}
    return {name: _value(schema["additionalProperties"], dice, (*place, name)) for name in chosen}


def _agree(spec: dict[str, Any], dice: random.Random) -> None:
    """Mostly keeps the rules between fields: else hardly any resource would be good."""
    ways = {"jwksUrl": "https://login.example/k", "secretRef": {"name": "jwt", "key": "a"}, "disabled": True}
    if dice.random() < 0.95:
        auth = spec["gateway"]["auth"]
        for name in ("jwksUrl", "secretRef", "publicKeyRef", "disabled"):
            auth.pop(name, None)
        name, value = dice.choice(list(ways.items()))
        auth[name] = value
    _one_of(spec.get("network"), dice, "ingress", "route")
    _one_of(spec.get("disruptionBudget"), dice, "minAvailable", "maxUnavailable")
    for half in ("inference", "gateway"):
        for variable in spec[half].get("env", ()):
            _one_of(variable, dice, "value", "valueFrom")
            if half == "gateway" and dice.random() < 0.5:
                setting = dice.choice(list(_GATEWAY_ENV))
                variable["name"] = f"PODPAIR_{setting}"
                if "value" in variable:
                    variable["value"] = dice.choice(_GATEWAY_ENV[setting])
        resources = spec[half].get("resources", {})
        if dice.random() < 0.8 and "requests" in resources:
            resources.pop("limits", None)
    for probe in spec["inference"].get("probes", {}).values():
        _one_of(probe, dice, "command", "httpGet")
    for model in spec["inference"].get("models", ()):
        for at, version in enumerate(model.get("versions", ())):
            version["weight"] = 100 if at == 0 else 0
    _agree_on_lists(spec, dice)
    if dice.random() < 0.95:
        _fit(spec, dice)


def _one_of(section: Any, dice: random.Random, *names: str) -> None:
    there = [name for name in names if isinstance(section, dict) and name in section]
    for name in there[1:] if dice.random() < 0.95 else ():
        del section[name]


def _agree_on_lists(spec: dict[str, Any], dice: random.Random) -> None:
    for metric in spec.get("scaling", {}).get("metrics", ()):
        names = ("cpu", "lag", "latency", "sessions", "inflight")
        _one_of(metric, dice, *names)
        if not metric:
            metric[dice.choice(names[:2])] = 5
    network = spec.get("network", {}).get("networkPolicy", {})
    for peer in (*network.get("from", ()), *network.get("operationsFrom", ())):
        _one_of(peer, dice, "ipBlock", "podSelector")
        if "ipBlock" in peer:
            peer.pop("namespaceSelector", None)
            peer["ipBlock"].pop("except", None)
        if not peer:
            peer["podSelector"] = {}
    if "amqp" in spec and dice.random() < 0.95:
        _agree_on_amqp(spec["amqp"], dice)
        if "workflows" in spec["gateway"]:
            spec["amqp"].pop("source", None)


def _agree_on_amqp(amqp: dict[str, Any], dice: random.Random) -> None:
    if dice.random() < 0.5:
        amqp.update(exchange="events", routingKeys=["a", "b"])
    else:
        amqp.pop("exchange", None)
        amqp.pop("routingKeys", None)
    if "maxPriority" in amqp:
        amqp["queueType"] = "classic"
    if amqp.keys() & {"exchange", "maxPriority", "messageTtl"}:
        amqp["declare"] = True
    if "messageTtl" in amqp:
        amqp["messageTtl"] = dice.choice(("10s", "1193h"))


def _fit(spec: dict[str, Any], dice: random.Random) -> None:
    kafka, gateway = spec["kafka"], spec["gateway"]
    for topic in ("requests", "results"):
        kafka.get(topic, {}).pop("partitions", None)
    scaling = spec.get("scaling", {})
    if "min" in scaling or "max" in scaling:
        scaling["min"], scaling["max"] = dice.choice(((1, 1), (1, 16), (2, 4)))
    fitting: tuple[tuple[Any, str, tuple[Any, ...]], ...] = (
        (spec, "replicas", (0, 1, 16)),
        (spec["inference"], "port", (8081,)),
        (spec["inference"], "grpcPort", (9000,)),
        (spec["inference"], "metricsPort", (9100,)),
        (gateway, "shutdownTimeout", ("20s", "10m")),
        (gateway, "terminationGracePeriod", ("2h",)),
        (spec.get("rollout", {}), "strategy", ("rolling",)),
        (spec.get("rollout", {}), "maxSurge", (1, "25%", "100%")),
        (gateway.get("limits", {}), "message", ("1e6", "1.5Mi", "1Ki", 2048)),
        (gateway.get("sessions", {}), "buffer", ("1e6", "1.5Mi", "1Ki", 2048)),
        (gateway.get("cache", {}), "lease", ("200ms", "1m")),
        (gateway.get("workflows", {}), "remember", ("1m", "8784h")),
        *((model, "memory", ("1Ki", "64Mi")) for model in gateway.get("cache", {}).get("models", ())),
        (kafka.get("consumerGroup", {}), "sessionTimeout", ("10s", "1h")),
        *(
            (rule, "requestsPerSecond", (5,))
            for rule in gateway.get("admission", {}).get("rules", ())
            if "burst" in rule
        ),
    )
    for section, name, values in fitting:
        if name in section or name == "requestsPerSecond":
            section[name] = dice.choice(values)


def _spoil(spec: dict[str, Any], dice: random.Random) -> None:
    """One field becomes something else, or null, or goes."""
    everything = list(places(SPEC, spec))
    place, schema, value = dice.choice([one for one in everything if one[2] is not None or dice.random() < 0.2])
    put(spec, place, _odd(schema, value, dice))


def _odd(schema: Schema, value: Any, dice: random.Random) -> Any:
    roll = dice.random()
    if roll < 0.1:
        return None
    if roll < 0.15:
        return copy.deepcopy(dice.choice(({}, [], "a", 1, True, {"a": "b"}, [None], {"a": None}, "5", [1])))
    kind = schema.get("type")
    if isinstance(value, str) and roll < 0.6:
        at = dice.randrange(len(value) + 1)
        letter = dice.choice((*_LETTERS, value[at : at + 1]))
        return value[:at] + letter + value[at + (dice.random() < 0.5) :]
    if "enum" in schema or kind == "string":
        return dice.choice(ODD_TEXTS)
    if schema.get("x-kubernetes-int-or-string"):
        return dice.choice((*ODD_TEXTS, *ODD_NUMBERS))
    if kind == "boolean":
        return dice.choice((0, 1, "true", "yes"))
    if kind in ("integer", "number"):
        return dice.choice((*ODD_NUMBERS, "5"))
    if kind == "array" and isinstance(value, list):
        return [*value, *value[:1]] if roll < 0.7 else [*value, dice.choice(ODD_TEXTS)]
    if "additionalProperties" in schema and isinstance(value, dict):
        names, odd = (*_NAMES, *_PROPERTIES, *_KEYS), (*ODD_TEXTS, *ODD_NUMBERS, None)
        return {**value, dice.choice(names): dice.choice(odd)}
    if "properties" in schema and isinstance(value, dict):
        return {**value, dice.choice(("nodeSelector", "replica", "a")): 1}
    return copy.deepcopy(value)
