#!/usr/bin/env bash
# With confluent-kafka 2.16.0 (librdkafka 2.16.0) a consumer fetches nothing of a partition of which it holds no record, as long as
# `queued.min.messages` records of other partitions wait in it. The property is documented as the minimum "per topic+partition
# librdkafka tries to maintain in the local consumer queue". Apache Kafka 4.1.0, one KRaft broker, a consumer that is assigned two
# partitions, takes one of the 100 records of the first and leaves the others; then one record is written to the second.
#
# Seen: what the consumer has of each partition 3 s later, when the broker has been stopped:
#
#   queued.min.messages=1: 100 of the first, 0 of the second
#   queued.min.messages=1000: 100 of the first, 1 of the second
#
# Partitions pass what they fetch on to the one queue that poll() and consume() read, and the length that is compared is that
# queue's. Each partition that finds it too long looks again after fetch.queue.backoff.ms. So with a low minimum, as it is set to
# have records gather at the broker, a partition whose turn often comes while anything waits is left behind the others.
#
# Needs bash, python3, java 17 and mvn. Exits with 1 where the behaviour has changed.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
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
auto.create.topics.enable=false
CONFIG
java=(java -Xmx256m -cp "$here/libs/*")
"${java[@]}" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg -c "$here/server.properties" > "$here/format.log" 2>&1
"$here/venv/bin/python" - "127.0.0.1:$port" "${java[@]}" kafka.Kafka "$here/server.properties" <<'PYTHON'
import atexit
import subprocess
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = {"bootstrap.servers": sys.argv[1], "log_level": 0}
broker = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
atexit.register(broker.wait)
atexit.register(broker.kill)
client = AdminClient(address)
for _ in range(60):
    try:
        client.list_topics(timeout=2)
        break
    except Exception:
        time.sleep(1)
else:
    sys.exit("no broker")
minimums = {1: "low", 1000: "high"}
for created in client.create_topics([NewTopic(topic, 2, 1) for topic in minimums.values()]).values():
    created.result(30)
writer = Producer(address)


def write(topic, partition, records):
    for number in range(records):
        writer.produce(topic, str(number), partition=partition)
    assert writer.flush(30) == 0


readers = {}
for minimum, topic in minimums.items():
    write(topic, 0, 100)
    readers[minimum] = reader = Consumer(
        {**address, "group.id": topic, "queued.min.messages": minimum, "fetch.queue.backoff.ms": 10}
    )
    reader.assign([TopicPartition(topic, partition, 0) for partition in (0, 1)])
    while reader.poll(1) is None:
        pass
time.sleep(1)  # for a fetch that was under way
for topic in minimums.values():
    write(topic, 1, 1)
time.sleep(3)
broker.kill()
broker.wait()
found = {}
for minimum, reader in readers.items():
    taken = [0]  # polled already
    while (message := reader.poll(2)) is not None:
        if message.error() is None:
            taken.append(message.partition())
    found[minimum] = taken.count(0), taken.count(1)
    print(f"queued.min.messages={minimum}: {found[minimum][0]} of the first, {found[minimum][1]} of the second")
sys.exit(0 if found == {1: (100, 0), 1000: (100, 1)} else 1)
PYTHON
