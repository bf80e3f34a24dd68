// Writes a record for each key (standard input, a line each): node produce.mjs BROKER TOPIC VARIANT.
// The packages are found from the working directory, so that what is installed need not lie beside this file.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "x.cjs"));
const [broker, topic, variant] = process.argv.slice(2);
const keys = readFileSync(0, "utf8").split("\n").filter(Boolean);
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

const variants = {
  "kafkajs": () => withKafkajs(null),
  "kafkajs-legacy": () => withKafkajs("LegacyPartitioner"),
  "platformatic": () => withPlatformatic(false),
  "platformatic-compatibility": () => withPlatformatic(true),
};
await variants[variant]();
