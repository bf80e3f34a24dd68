// A gateway from Kafka to WebSockets on Node.js, as one writes it: ws, kafkajs, a map from session to socket.
// It does less than podpair's: no resume, no requests, no back-pressure. Sessions get a record's value as it is.
// Prints `ready` once it reads the topic's end.
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import jwt from "jsonwebtoken";
import { Kafka, logLevel } from "kafkajs";
import { WebSocketServer } from "ws";

const { values: options } = parseArgs({
  options: { port: { type: "string" }, brokers: { type: "string" }, topic: { type: "string" }, secret: { type: "string" } },
});
const sessions = new Map();

const server = createServer((_, response) => response.writeHead(404).end());
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
server.on("upgrade", (request, socket, head) => {
  let claims;
  try {
    claims = jwt.verify((request.headers.authorization ?? "").replace(/^Bearer /, ""), options.secret, { algorithms: ["HS256"] });
  } catch {
    socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n");
    return;
  }
  sockets.handleUpgrade(request, socket, head, (client) => {
    sessions.set(claims.sid, client);
    client.on("close", () => sessions.delete(claims.sid));
    client.on("error", () => client.terminate());
    client.send('{"type":"welcome"}');
  });
});

const kafka = new Kafka({ brokers: options.brokers.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: `node-gateway-${process.pid}`, maxWaitTimeInMs: 500 });
await consumer.connect();
await consumer.subscribe({ topic: options.topic, fromBeginning: true });
const joined = new Promise((done) => consumer.on(consumer.events.GROUP_JOIN, done));
await consumer.run({
  autoCommit: false,
  eachBatch: async ({ batch }) => {
    for (const { key, value } of batch.messages) {
      sessions.get(key?.toString())?.send(value.toString());
    }
  },
});
await joined;
server.listen(Number(options.port), "127.0.0.1", () => console.log("ready"));
