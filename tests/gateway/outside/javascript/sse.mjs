// What a client of server-sent events makes of an address: its events as JSON lines. Arguments: the client, the address.
import { createRequire } from "node:module";
import { argv, cwd, exit, stdout } from "node:process";
import { pathToFileURL } from "node:url";

const [client, url] = argv.slice(2);
const resolve = createRequire(`${cwd()}/`).resolve;
const load = (name) => import(pathToFileURL(resolve(name)));
const say = (type, data) => stdout.write(`${JSON.stringify({ type, data: data === undefined ? null : JSON.parse(data || '""') })}\n`);
const end = () => {
  say("ended");
  setTimeout(() => exit(0), 10);
};
// Some say nothing of their end, and some keep no process alive while they wait to reconnect.
const endWith = (source) => {
  const look = setInterval(() => {
    if (source.readyState !== 2 && source.readyState !== "closed") return;
    clearInterval(look);
    end();
  }, 50);
};
const types = ["message", "welcome", "push", "gap", "close"];

if (client === "eventsource" || client === "undici") {
  const { EventSource } = await load(client);
  const source = new EventSource(url);
  for (const type of types) source.addEventListener(type, ({ data }) => say(type, data));
  endWith(source);
} else if (client === "eventsource-client") {
  const { createEventSource } = await load(client);
  const source = createEventSource({ url, onMessage: ({ event, data }) => say(event ?? "message", data) });
  endWith(source);
} else {
  // It is for browsers: this is all that it takes of one.
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  const { fetchEventSource } = await load("@microsoft/fetch-event-source");
  await fetchEventSource(url, { onmessage: ({ event, data }) => say(event || "message", data) });
  end();
}
