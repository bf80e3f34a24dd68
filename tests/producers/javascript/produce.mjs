// Writes a record for each key (standard input, a line each): node produce.mjs BROKER TOPIC VARIANT.
// The packages are found from the working directory, so that what is installed need not lie beside this file.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "x.cjs"));
const [broker, topic, variant] = process.argv.slice(2);
const keys = readFileSync(0, "utf8").split("\n").slice(0, -1);
const messages = keys.map((key) => ({ key, value: "{}" }));

async function withKafkajs(createPartitioner) {
  process.env.KAFKAJS_NO_PARTITIONER_WARNING = "1";
  const { Kafka, Partitioners, logLevel } = require("kafkajs");
  const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.ERROR });
  const producer = kafka.producer(createPartitioner ? { createPartitioner: Partitioners[createPartitioner] } : {});
  await producer.connect();
  await producer.send({ topic, messages });
  await producer.disconnect();
}

async function withPlatformatic(partitioner) {
  const { Producer, stringSerializers, compatibilityPartitioner } = require("@platformatic/kafka");
  const chosen = partitioner ? { partitioner: compatibilityPartitioner } : {};
  const producer = new Producer({ clientId: "x", bootstrapBrokers: [broker], serializers: stringSerializers, ...chosen });
  await producer.send({ messages: messages.map((message) => ({ topic, ...message })) });
  await producer.close();
}

// The half that is used like kafkajs.
async function withConfluentKafkaJS() {
  const { Kafka, logLevel } = require("@confluentinc/kafka-javascript").KafkaJS;
  const producer = new Kafka({ kafkaJS: { brokers: [broker], logLevel: logLevel.ERROR } }).producer();
  await producer.connect();
  await producer.send({ topic, messages });
  await producer.disconnect();
}

// The half that is used like node-rdkafka.
async function withConfluentRdkafka(more) {
  const { Producer } = require("@confluentinc/kafka-javascript");
  const producer = new Producer({ "metadata.broker.list": broker, ...more });
  await new Promise((resolve, reject) => {
    producer.on("event.error", reject);
    producer.connect({}, (error) => (error ? reject(error) : resolve()));
  });
  for (const { key, value } of messages) producer.produce(topic, null, Buffer.from(value), key);
  await new Promise((resolve, reject) => producer.flush(60000, (error) => (error ? reject(error) : resolve())));
  await new Promise((resolve) => producer.disconnect(resolve));
}

const variants = {
  "kafkajs": () => withKafkajs(null),
  "kafkajs-legacy": () => withKafkajs("LegacyPartitioner"),
  "confluent-kafkajs": () => withConfluentKafkaJS(),
  "confluent-rdkafka": () => withConfluentRdkafka({}),
  "confluent-rdkafka-murmur2": () => withConfluentRdkafka({ partitioner: "murmur2_random" }),
  "platformatic": () => withPlatformatic(false),
  "platformatic-compatibility": () => withPlatformatic(true),
};
await variants[variant]();
