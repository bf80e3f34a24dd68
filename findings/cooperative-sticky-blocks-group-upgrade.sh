#!/usr/bin/env bash
# Kafka broker 4.1.0 with confluent-kafka 2.16.1 (librdkafka 2.16.0).
#
# KIP-848 lets a classic consumer group be changed to the `consumer` protocol online, member by member. With librdkafka's
# `cooperative-sticky` members that works only in the group's first generation: from then on librdkafka puts data of its own into
# its subscription, which the broker takes for a custom assignor's ("userData from a custom assignor would be lost"). The member
# that joins with group.protocol=consumer gets a fatal error: "The group id does not exist", of a group that is there; and
# KafkaError.fatal() of that error is False where the consumer hands it over as a message. With `range` the same change works.
#
# Seen (after three generations):
#   range: the consumer member was assigned partitions
#   cooperative-sticky: _FATAL, fatal()=False, Broker: The group id does not exist
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
cat > server.properties <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$work/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
CONF
run() { java -Xmx384m -cp 'libs/*' "$@"; }
run kafka.tools.StorageTool format -t "$(run kafka.tools.StorageTool random-uuid 2>/dev/null | tail -1)" -c server.properties >/dev/null
java -Xmx384m -cp 'libs/*' kafka.Kafka server.properties >broker.log 2>&1 &
broker=$!

cat > members.py <<'PY'
import sys
import threading
import time

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

address = sys.argv[1]
admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
end = time.monotonic() + 240
while True:
    try:
        admin.list_topics(timeout=20)
        break
    except Exception:
        assert time.monotonic() < end


class Member:
    def __init__(self, group, **conf):
        self.error, self.assigned, self.stop = None, threading.Event(), False
        conf = {name.replace("_", "."): value for name, value in conf.items()}
        self.consumer = Consumer({"bootstrap.servers": address, "group.id": group, "log_level": 0, **conf})
        self.consumer.subscribe([group], on_assign=lambda _, places: self.assigned.set() if places else None)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop:
            message = self.consumer.poll(0.1)
            if message is not None and message.error() is not None:
                self.error = message.error()
        self.consumer.close()

    def leave(self):
        self.stop = True
        self.thread.join()


def change(strategy):
    group = f"g-{strategy}"
    admin.create_topics([NewTopic(group, 6, 1)])[group].result(30)
    stays = Member(group, partition_assignment_strategy=strategy, session_timeout_ms=6000)
    assert stays.assigned.wait(120)
    for _ in range(3):  # generations
        passing = Member(group, partition_assignment_strategy=strategy, session_timeout_ms=6000)
        assert passing.assigned.wait(120)
        passing.leave()
    new = Member(group, group_protocol="consumer")
    end = time.monotonic() + 60
    while not new.assigned.is_set() and new.error is None and time.monotonic() < end:
        time.sleep(0.1)
    error, assigned = new.error, new.assigned.is_set()
    for member in (new, stays):
        member.leave()
    return assigned, error


assigned, error = change("range")
print("range:", "the consumer member was assigned partitions" if assigned else f"refused: {error}")
works = assigned and error is None
assigned, error = change("cooperative-sticky")
if error is None:
    print("cooperative-sticky:", "assigned" if assigned else "nothing heard")
    sys.exit(1)
print(f"cooperative-sticky: {error.name()}, fatal()={error.fatal()}, {error.str().rpartition('error: ')[2]}")
sys.exit(0 if works and not assigned and not error.fatal() and "group id does not exist" in error.str() else 1)
PY
venv/bin/python members.py "127.0.0.1:$port"
