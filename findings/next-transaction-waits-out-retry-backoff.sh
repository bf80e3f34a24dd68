#!/usr/bin/env bash
# With confluent-kafka 2.16.0 (librdkafka 2.16.0) a transaction with offsets that begins as soon as the one before is committed
# takes four times as long as one that begins 20 ms later: who waits is done earlier. Apache Kafka 4.1.0, one KRaft broker,
# one producer, 50 records and send_offsets_to_transaction in each, 60 transactions a line.
#
# Seen, on a busy machine with two cores (the median of a transaction, without the pause before it):
#
#   each at once: 121 ms, 56 of 60 were refused at first
#   each after 20 ms: 27 ms, 4 of 60 were refused at first
#   each at once, retry.backoff.ms=10: 36 ms, 52 of 60 were refused at first
#
# commit_transaction returns when the coordinator has logged the decision, before the markers are on the partitions. Until they are
# it answers AddOffsetsToTxn of the next transaction with CONCURRENT_TRANSACTIONS, a few milliseconds after which it would take it;
# librdkafka asks again after retry.backoff.ms, 100 by default, which is documented as the pause before a failed request is
# repeated, and waits for it inside a call that succeeds. Nothing is logged, unless by debug=eos.
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
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
CONFIG
java=(java -Xmx256m -cp "$here/libs/*")
"${java[@]}" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg -c "$here/server.properties" > "$here/format.log" 2>&1
"$here/venv/bin/python" - "127.0.0.1:$port" "${java[@]}" kafka.Kafka "$here/server.properties" <<'PYTHON'
import atexit
import logging
import statistics
import subprocess
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = {"bootstrap.servers": sys.argv[1], "log_level": 0}
broker = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
atexit.register(broker.wait)
atexit.register(broker.terminate)
client = AdminClient(address)
for _ in range(60):
    try:
        client.list_topics(timeout=2)
        break
    except Exception:
        time.sleep(1)
else:
    sys.exit("no broker")
for created in client.create_topics([NewTopic("in", 1, 1), NewTopic("out", 4, 1)]).values():
    created.result(30)

member = Consumer({**address, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False})
member.subscribe(["in"])
writer = Producer(address)
writer.produce("in", "request")
assert writer.flush(30) == 0
while member.poll(1) is None:
    pass


class Refusals(logging.Handler):
    def __init__(self):
        super().__init__()
        self.count = 0

    def emit(self, record):
        self.count += "AddOffsetsToTxn response" in record.getMessage() and "CONCURRENT_TRANSACTIONS" in record.getMessage()


def transactions(name, pause, **more):
    refusals, logger = Refusals(), logging.getLogger(name)
    logger.addHandler(refusals)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    own = {name.replace("_", "."): value for name, value in more.items()}
    producer = Producer({**address, "log_level": 7, "debug": "eos", "logger": logger, "transactional.id": name, "linger.ms": 0, **own})
    producer.init_transactions(30)
    took = []
    for number in range(60):
        time.sleep(pause)
        began = time.monotonic()
        producer.begin_transaction()
        for key in range(50):
            producer.produce("out", "y" * 200, key=str(key))
        producer.send_offsets_to_transaction([TopicPartition("in", 0, number + 1)], member.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
        took.append((time.monotonic() - began) * 1000)
    producer.poll(0.5)  # and with it what is logged
    print(f"{name}: {statistics.median(took):.0f} ms, {refusals.count} of 60 were refused at first")
    return statistics.median(took), refusals.count


transactions("to warm up", 0)
at_once, refused = transactions("each at once", 0)
later, refused_later = transactions("each after 20 ms", 0.02)
shorter, _ = transactions("each at once, retry.backoff.ms=10", 0, retry_backoff_ms=10)
sys.exit(0 if refused > 30 > refused_later and at_once > 1.5 * later and at_once > 1.5 * shorter else 1)
PYTHON
