// Events as the CloudEvents SDK for JavaScript writes them on Kafka, as JSON lines. Arguments: the session, the model's row.
import { createRequire } from "node:module";
import { argv, cwd, stdout } from "node:process";

const { CloudEvent, Kafka } = createRequire(`${cwd()}/`)("cloudevents");
const [session, row] = [argv[2], JSON.parse(argv[3])];
const base64 = (value) => Buffer.from(value).toString("base64");

function event(type, id, data, more = {}) {
  const attributes = { source: "/shop", subject: session, datacontenttype: "application/json" };
  return new CloudEvent({ id, type, data, ...attributes, ...more });
}

for (const mode of ["binary", "structured"]) {
  const events = [
    event("com.example.order", `json-${mode}`, { mode }),
    event("com.example.order", `bytes-${mode}`, Uint8Array.from([0, 255]), { datacontenttype: "application/octet-stream" }),
    event("com.example.order", `text-${mode}`, "hello", { datacontenttype: "text/plain" }),
    event("dev.podpair.request", `request-${mode}`, { data: row }, { model: "digits", deadline: `${Date.now() + 3_600_000}` }),
  ];
  for (const one of events) {
    const message = Kafka[mode](one);
    // What a producer needs: headers that are there, and a value that is text or bytes; in binary mode the SDK hands on objects.
    const named = Object.entries(message.headers).filter(([, value]) => value !== undefined);
    const headers = Object.fromEntries(named.map(([name, value]) => [name, base64(`${value}`)]));
    const { value } = message;
    const plain = typeof value === "string" || value instanceof Uint8Array ? value : JSON.stringify(value);
    stdout.write(`${JSON.stringify({ id: one.id, headers, value: base64(plain) })}\n`);
  }
}
