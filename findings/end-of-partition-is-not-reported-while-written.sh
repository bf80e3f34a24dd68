#!/usr/bin/env bash
# With confluent-kafka 2.16.1 (librdkafka 2.16.1) and `enable.partition.eof` a consumer that has read all there is of a partition is
# not told so while somebody writes to it more often than `fetch.wait.max.ms`. The event is documented as "emitted whenever the
# consumer reaches the end of a partition". Apache Kafka 4.1.0, one KRaft broker, one partition with 100 records at first; a record
# is written every 0.1 s, which the consumer has within milliseconds, so nearly always it stands at the end.
#
# Seen: what came in the first 5 s, and whether there was an event within 5 s of the last write:
#
#   fetch.wait.max.ms=500: 0 events in 5 s, one afterwards
#   fetch.wait.max.ms=20: events in 5 s, one afterwards
#
# The event is made of a response without records for the offset that was asked for, and the broker keeps a fetch until there is a
# record, or that time is over. So a program that waits for the event to know that it has read the state of a compacted topic may
# wait as long as the topic is in use; the ends asked for before (get_watermark_offsets) tell when all is read.
#
# Needs bash, python3, java 17 and mvn. Exits with 1 where the behaviour has changed.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q confluent-kafka==2.16.1
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
import threading
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
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
for created in client.create_topics([NewTopic("state", 1, 1)]).values():
    created.result(30)
writer = Producer(address | {"linger.ms": 0})
for number in range(100):
    writer.produce("state", str(number), partition=0)
assert writer.flush(30) == 0


def events(reader, seconds):
    """The ends that were reported, and how many records came."""
    ends = records = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        message = reader.poll(0.02)
        if message is None:
            continue
        if message.error() is None:
            records += 1
        elif message.error().code() == KafkaError._PARTITION_EOF:
            ends += 1
    return ends, records


seen = []
for wait in (500, 20):
    over = threading.Event()

    def write():
        while not over.wait(0.1):
            writer.produce("state", "more", partition=0)
            writer.poll(0)

    thread = threading.Thread(target=write)
    thread.start()
    reader = Consumer(address | {"group.id": "nobody", "enable.partition.eof": True, "fetch.wait.max.ms": wait})
    reader.assign([TopicPartition("state", 0, 0)])
    ends, records = events(reader, 5)
    assert records > 120, records
    over.set()
    thread.join()
    assert writer.flush(30) == 0
    after, _ = events(reader, 5)
    reader.close()
    seen.append(f"fetch.wait.max.ms={wait}: {'events' if ends else '0 events'} in 5 s, {'one' if after else 'none'} afterwards")
print(*seen, sep="\n")
expected = ["fetch.wait.max.ms=500: 0 events in 5 s, one afterwards", "fetch.wait.max.ms=20: events in 5 s, one afterwards"]
sys.exit(seen != expected)
PYTHON
