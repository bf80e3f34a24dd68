#!/usr/bin/env bash
# A consumer of confluent-kafka 2.16.0 (librdkafka 2.16.0) reads nothing any more of a topic that was deleted and created again
# after its broker had been restarted: not from where it was, and not when it is assigned the partition anew at offset 0. It tells
# nothing: no error, no log line. A consumer that begins then reads all. Apache Kafka 4.1.0, one KRaft broker, default settings.
#
# Seen:
#
#   read of the topic before the restart: 5, after it: 5
#   created again, 10 records written
#   read in 30 s: 0, assigned anew at 0: 0; errors and log lines told by the client: 0
#   read by another consumer: 10
#
# A restart raises the epoch of the partition's leader, a topic that is created begins with epoch 0, and librdkafka ignores what
# brokers say of a partition under an epoch below the one that it knows, whatever the topic's id
# (rd_kafka_toppar_leader_update: "ignoring outdated metadata update", at debug level only). Where brokers have not been restarted
# since the topic was created, all is well: that is the case that everybody tests.
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
offsets.topic.replication.factor=1
auto.create.topics.enable=false
CONFIG
java=(java -Xmx256m -cp "$here/libs/*")
"${java[@]}" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg -c "$here/server.properties" > "$here/format.log" 2>&1
"$here/venv/bin/python" - "127.0.0.1:$port" "${java[@]}" kafka.Kafka "$here/server.properties" <<'PYTHON'
import atexit
import logging
import subprocess
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address, told = {"bootstrap.servers": sys.argv[1], "log_level": 0}, []
brokers = []


def start():
    brokers.append(subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def stop():
    brokers[-1].terminate()
    brokers[-1].wait()


start()
atexit.register(stop)


class Listening(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())


logger = logging.getLogger("client")
logger.addHandler(Listening())


def admin():
    made = AdminClient(address)
    for _ in range(60):
        try:
            made.list_topics(timeout=2)
            return made
        except Exception:
            time.sleep(1)
    sys.exit("no broker")


def write(records):
    producer = Producer(address)
    for number in range(records):
        producer.produce("t", str(number), partition=0)
    assert producer.flush(30) == 0


def consumer_of():
    return Consumer(
        {**address, "log_level": 6, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False,
         "error_cb": lambda error: told.append(str(error)), "logger": logger}
    )


def read(consumer, wanted, seconds):
    found, end = 0, time.monotonic() + seconds
    while found < wanted and time.monotonic() < end:
        message = consumer.poll(0.2)
        if message is not None and message.error() is not None:
            told.append(str(message.error()))
        elif message is not None:
            found += 1
    return found


client = admin()
client.create_topics([NewTopic("t", 1, 1)])["t"].result(30)
write(5)
consumer = consumer_of()
consumer.assign([TopicPartition("t", 0, 0)])
first = read(consumer, 5, 60)
stop()
start()
client = admin()
write(5)
second = read(consumer, 5, 60)
print(f"read of the topic before the restart: {first}, after it: {second}")
told.clear()
# The application is busy meanwhile: it polls again when the topic is there again.
client.delete_topics(["t"], operation_timeout=30)["t"].result(30)
client.create_topics([NewTopic("t", 1, 1)])["t"].result(30)
while client.list_topics("t", timeout=10).topics["t"].error is not None:
    time.sleep(0.05)
write(10)
print("created again, 10 records written")
third = read(consumer, 10, 30)
consumer.unassign()
consumer.assign([TopicPartition("t", 0, 0)])
fourth = read(consumer, 10, 30)
print(f"read in 30 s: {third}, assigned anew at 0: {fourth}; errors and log lines told by the client: {len(told)}", *told,
      sep="\n  " if told else "")
silent = not told
another = consumer_of()
another.assign([TopicPartition("t", 0, 0)])
fifth = read(another, 10, 60)
print(f"read by another consumer: {fifth}")
another.close()
consumer.close()
sys.exit(0 if (first, second, third, fourth, fifth) == (5, 5, 0, 0, 10) and silent else 1)
PYTHON
