#!/usr/bin/env bash
# Kafka broker 4.1.0 with confluent-kafka 2.16.1 (librdkafka 2.16.0).
#
# A user whom the broker's ACLs refuse a consumer group is told so at once by AdminClient.describe_consumer_groups. A
# Consumer of the same group is told nothing: committed() waits its whole time limit and raises _TIMED_OUT, as if no broker
# answered, although the broker refused the request that finds the group's coordinator within milliseconds, again and again. What
# it said stands in the next poll() alone, of a consumer that has subscribed to nothing.
#
# Seen:
#   describe_consumer_groups: GROUP_AUTHORIZATION_FAILED sooner
#   committed: _TIMED_OUT after the whole 6 s
#   poll: GROUP_AUTHORIZATION_FAILED
#
# Needs java (17 or newer), mvn and python3 with venv. Exits non-zero if it behaves otherwise.
set -euo pipefail
work=$(mktemp -d)
broker=
trap '[ -n "$broker" ] && kill "$broker" 2>/dev/null; rm -rf "$work"' EXIT
cd "$work"

cat > pom.xml <<'POM'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>f</groupId><artifactId>f</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.1.0</version></dependency></dependencies>
</project>
POM
mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs
python3 -m venv venv
venv/bin/pip -q install confluent-kafka==2.16.1

read -r port controller < <(python3 - <<'PY'
import socket
a, b = socket.socket(), socket.socket()
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])
PY
)
jaas='org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="one" user_reader="two";'
cat > server.properties <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=CLIENTS://127.0.0.1:$port,INSIDE://127.0.0.1:0,CONTROLLER://127.0.0.1:$controller
advertised.listeners=CLIENTS://127.0.0.1:$port,INSIDE://127.0.0.1:9
inter.broker.listener.name=INSIDE
listener.security.protocol.map=CLIENTS:SASL_PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.clients.plain.sasl.jaas.config=$jaas
controller.listener.names=CONTROLLER
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
log.dirs=$work/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
CONF
run() { java -Xmx384m -cp 'libs/*' "$@"; }
run kafka.tools.StorageTool format -t "$(run kafka.tools.StorageTool random-uuid 2>/dev/null | tail -1)" -c server.properties >/dev/null
java -Xmx384m -cp 'libs/*' kafka.Kafka server.properties >broker.log 2>&1 &
broker=$!

cat > ask.py <<'PY'
import sys
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, AdminClient, NewTopic, ResourcePatternType, ResourceType


def login(user, password):
    return {
        "bootstrap.servers": sys.argv[1], "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
        "sasl.username": user, "sasl.password": password, "log_level": 0,
    }


admin = AdminClient(login("admin", "one"))
end = time.monotonic() + 60
while True:
    try:
        admin.list_topics(timeout=5)
        break
    except KafkaException:
        assert time.monotonic() < end
admin.create_topics([NewTopic("t", 1, 1)])["t"].result(30)
topics = AclBinding(ResourceType.TOPIC, "*", ResourcePatternType.LITERAL, "User:reader", "*", AclOperation.ALL, AclPermissionType.ALLOW)
for done in admin.create_acls([topics]).values():
    done.result(30)

reader = login("reader", "two")


def outcome(future):
    began = time.monotonic()
    try:
        future.result(30)
        name = "an answer"
    except KafkaException as error:
        name = error.args[0].name()
    return name, "after the whole 6 s" if time.monotonic() - began >= 5.9 else "sooner"


asking = AdminClient(reader)
described = outcome(asking.describe_consumer_groups(["g"])["g"])
print("describe_consumer_groups:", *described)

consumer = Consumer({**reader, "group.id": "g", "enable.auto.commit": False})
began = time.monotonic()
try:
    consumer.committed([TopicPartition("t", 0)], timeout=6)
    waited = "an answer"
except KafkaException as error:
    waited = error.args[0].name()
whole = time.monotonic() - began >= 5.9
print("committed:", waited, "after the whole 6 s" if whole else "sooner")
message = consumer.poll(1)
polled = message.error().name() if message is not None and message.error() is not None else "nothing"
print("poll:", polled)
consumer.close()
sys.exit((*described, waited, whole, polled) != ("GROUP_AUTHORIZATION_FAILED", "sooner", "_TIMED_OUT", True, "GROUP_AUTHORIZATION_FAILED"))
PY
venv/bin/python ask.py "127.0.0.1:$port"
