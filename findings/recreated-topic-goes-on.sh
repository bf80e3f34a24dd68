#!/usr/bin/env bash
# A consumer of confluent-kafka 2.16.0 (librdkafka 2.16.0) with assign() stays at its offset when its topic is deleted and
# created again, although the topic has another id then, and reports nothing: no error, no event, no log line. What stands in
# the new log before that offset is skipped for good. Apache Kafka 4.1.0, one KRaft broker, default settings.
#
# Seen (the first line is what the application reads, the last what it was told in between):
#
#   old topic: offsets 0..29
#   new topic, another id: records 0..149 written
#   read from the new topic: offsets 30..149
#   errors and log lines told by the client: 0
#
# Only comparing the topic's id (AdminClient.describe_topics) tells. Where the new log is shorter than the old offset the client
# gets OFFSET_OUT_OF_RANGE and goes by auto.offset.reset; that is the case that everybody tests.
#
# Needs bash, python3, java 17 and mvn. Exits with 1 where the behaviour has changed.
set -euo pipefail
here=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null || true; rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q confluent-kafka==2.16.0
cat > "$here/pom.xml" <<'POM'
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>finding</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.1.0</version></dependency>
</dependencies></project>
POM
(cd "$here" && mvn -q -B dependency:copy-dependencies "-DoutputDirectory=$here/libs")
read -r port controller < <(python3 -c 'import socket
s = [socket.socket() for _ in range(2)]
[one.bind(("127.0.0.1", 0)) for one in s]
print(*(one.getsockname()[1] for one in s))')
cat > "$here/server.properties" <<CONFIG
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$here/log
offsets.topic.replication.factor=1
auto.create.topics.enable=false
CONFIG
java=(java -Xmx256m -cp "$here/libs/*")
"${java[@]}" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg -c "$here/server.properties" > "$here/format.log" 2>&1
"${java[@]}" kafka.Kafka "$here/server.properties" > "$here/broker.log" 2>&1 &
broker=$!
"$here/venv/bin/python" - "127.0.0.1:$port" <<'PYTHON'
import logging
import sys
import time

from confluent_kafka import Consumer, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address, told = {"bootstrap.servers": sys.argv[1], "log_level": 0}, []


class Listening(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())


logger = logging.getLogger("client")
logger.addHandler(Listening())
admin = AdminClient(address)
for _ in range(60):
    try:
        admin.list_topics(timeout=2)
        break
    except Exception:
        time.sleep(1)


def create():
    admin.create_topics([NewTopic("t", 1, 1)])["t"].result(30)
    while admin.list_topics("t", timeout=10).topics["t"].error is not None:
        time.sleep(0.05)
    return str(admin.describe_topics(TopicCollection(["t"]))["t"].result(30).topic_id)


def write(records):
    producer = Producer(address)
    for number in range(records):
        producer.produce("t", str(number), partition=0)
    assert producer.flush(30) == 0


def read(wanted, seconds):
    found, end = [], time.monotonic() + seconds
    while len(found) < wanted and time.monotonic() < end:
        message = consumer.poll(0.2)
        if message is not None and message.error() is not None:
            told.append(str(message.error()))
        elif message is not None:
            found.append(message.offset())
    return found


consumer = Consumer(
    {**address, "log_level": 6, "group.id": "g", "auto.offset.reset": "error", "enable.auto.commit": False,
     "error_cb": lambda error: told.append(str(error)), "logger": logger}
)
before = create()
write(30)
consumer.assign([TopicPartition("t", 0, 0)])
old = read(30, 60)
print(f"old topic: offsets {old[0]}..{old[-1]}")
told.clear()
# The application is busy meanwhile: it polls again when the topic is there again and its log is longer than before.
admin.delete_topics(["t"], operation_timeout=30)["t"].result(30)
after = create()
write(150)
print(f"new topic, {'another' if before != after else 'the same'} id: records 0..149 written")
new = read(120, 60)
print(f"read from the new topic: offsets {new[0]}..{new[-1]}" if new else "nothing read from the new topic")
print(f"errors and log lines told by the client: {len(told)}", *told, sep="\n  " if told else "")
consumer.close()
sys.exit(0 if new and new[0] == 30 and new[-1] == 149 and not told and before != after else 1)
PYTHON
