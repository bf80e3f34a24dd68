"""A real Apache Kafka: one KRaft broker and controller, from the jars that Maven resolves, on this machine's Java.

`Broker` lets everyone in and everyone do everything. `SecureBroker` has listeners with SASL and TLS besides, users, and an
authorizer that allows only what a test allows.
"""

import shutil
import socket
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from harness.certificates import Authority
from harness.machine import require
from harness.maven import jars
from harness.processes import Child, free_port

_HERE = Path(__file__).parent
LOG_CONFIG = _HERE / "log4j2.properties"
_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=500
auto.create.topics.enable=false
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=0
log.initial.task.delay.ms=0
"""
# A producer's transactions, its topics' leaders and the controller itself come in by PLAINTEXT, as ANONYMOUS.
_SECURE = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:admin
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.ssl.ssl.client.auth=required
listener.name.ssl.ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/
"""
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


def libraries() -> Path:
    """The folder with the broker's jars, resolved on first use."""
    return jars(_HERE / "pom.xml", "kafka/libs")


class Broker:
    """A running broker at `address`; its data goes with it. A command that begins with `entrance` joins the network of `host`."""

    _protocols: tuple[str, ...] = _PROTOCOLS[:1]

    def __init__(self, heap: str = "512m", host: str = "127.0.0.1", entrance: tuple[str, ...] = ()) -> None:
        (java,) = require("java")
        self._data = Path(tempfile.mkdtemp(prefix="podpair-kafka-"))
        # Java asks for the name of each address that logs in. These are all that it knows: nobody waits for a name server.
        names = self._data / "hosts"
        names.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{host} broker\n")
        self._java = [*entrance, java, f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseSerialGC", "-Djava.awt.headless=true",
                      f"-Djdk.net.hosts.file={names}",
                      f"-Dlog4j2.configurationFile={LOG_CONFIG}", "-cp", f"{libraries()}/*"]  # fmt: skip
        self.addresses = {protocol: f"{host}:{free_port()}" for protocol in self._protocols}
        """Where it listens, by security.protocol."""
        self.address = self.addresses["PLAINTEXT"]
        self._config = self._data / "server.properties"
        told = _CONFIG.format(
            listeners=",".join(f"{protocol}://{address}" for protocol, address in self.addresses.items()),
            protocols=",".join(f"{protocol}:{protocol}" for protocol in self._protocols),
            controller=free_port(),
            data=self._data / "log",
        )
        self._config.write_text(told + self._more_config())
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
        subprocess.run(
            [*self._java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._config)],
            check=True,
            capture_output=True,
        )
        self.child = self._start()

    def _more_config(self) -> str:
        return ""

    def _start(self) -> Child:
        # log4j2 writes to standard output; the harness watches standard error.
        child = Child("sh", "-c", 'exec "$@" >&2', "sh", *self._java, "kafka.Kafka", self._config)
        child.wait_for(lambda line: "Kafka Server started" in line)
        return child

    def restart(self) -> None:
        """Stop the broker as one does for maintenance, and start it again with its data. Returns when it serves."""
        self.child.stop(timeout=60)
        self.child = self._start()

    def stop(self) -> None:
        """End the broker and forget its data."""
        self.child.kill()
        shutil.rmtree(self._data, ignore_errors=True)


class SecureBroker(Broker):
    """A broker that asks who one is, and allows nothing that isn't allowed; `address` (PLAINTEXT) may do everything.

    `addresses` has SASL_PLAINTEXT and SASL_SSL (PLAIN and SCRAM) and SSL (a client's certificate from `authority`, whose
    common name is the user). PLAIN knows the users of `PLAIN_USERS`; SCRAM those that `set_password` made.
    """

    PLAIN_USERS: ClassVar = {"admin": "admin-password", "app": "app-password"}
    _protocols = _PROTOCOLS

    def __init__(self, heap: str = "512m", host: str = "127.0.0.1", entrance: tuple[str, ...] = ()) -> None:
        self.authority = Authority("podpair test broker")
        super().__init__(heap, host, entrance)

    @cached_property
    def _admin(self) -> AdminClient:
        # Made where it is used: it would try again and again where the broker is in a network of its own.
        return AdminClient({"bootstrap.servers": self.address})

    def _more_config(self) -> str:
        keystore, truststore = self._data / "broker.pem", self._data / "ca.pem"
        made = self.authority.issue("broker", hosts=("localhost", "127.0.0.1"))
        keystore.write_text(made.key + made.certificate)
        truststore.write_text(self.authority.certificate)
        users = " ".join(f'user_{name}="{password}"' for name, password in self.PLAIN_USERS.items())
        lines = [_SECURE.format(keystore=keystore, truststore=truststore)]
        for listener in ("sasl_plaintext", "sasl_ssl"):
            lines.append(f"listener.name.{listener}.plain.sasl.jaas.config={_PLAIN} {users};\n")
            lines += [
                f"listener.name.{listener}.{mechanism}.sasl.jaas.config={_SCRAM}\n"
                for mechanism in ("scram-sha-256", "scram-sha-512")
            ]
        return "".join(lines)

    def set_password(self, user: str, password: str) -> None:
        """Make or change a user of SCRAM-SHA-256 and SCRAM-SHA-512."""
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            made = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), password.encode())
            for future in self._admin.alter_user_scram_credentials([made]).values():
                future.result(10)

    def allow(self, user: str, what: str, name: str, *operations: str) -> None:
        """Allow operations (`DESCRIBE`, `READ`, … of AclOperation) on a `TOPIC`, `GROUP` or `BROKER`; `*` is any."""
        pattern = ResourcePatternType.LITERAL
        acls = [
            AclBinding(ResourceType[what], name, pattern, f"User:{user}", "*", AclOperation[o], AclPermissionType.ALLOW)
            for o in operations
        ]
        for future in self._admin.create_acls(acls).values():
            future.result(10)
