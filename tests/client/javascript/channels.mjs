// channels.mjs ADDRESS TOKEN: subscribes to room.js, publishes there, is cut off, and prints what came, as one JSON object.
import { connect } from "./podpair.js";

const [address, token] = process.argv.slice(2);
const options = globalThis.WebSocket ? {} : { WebSocket: (await import("ws")).WebSocket };
const session = await connect(address, { token, backoff: { initial: 1 }, ...options });
const got = [];
const reached = (count) =>
  new Promise((resolve) => {
    const look = () => got.length >= count && resolve();
    session.addEventListener("publication", look);
    look();
  });
session.addEventListener("publication", ({ detail }) => got.push(detail.data));
const refused = await session.subscribe("drafts").catch((error) => error.name);
await session.subscribe("room.js");
session.unsubscribe("room.js"); // its answer is not taken for one about the subscription that follows
await Promise.all([session.subscribe("room.js"), session.subscribe("room.js")]);
const position = await session.publish("room.js", { n: 1 });
await reached(1);
session.disconnect();
const away = await session.publish("room.js", "never").catch((error) => error.name);
const other = await connect(address, { token, ...options });
await other.publish("room.js", { n: 2 });
other.close();
session.reconnect();
await reached(2);
session.unsubscribe("room.js");
let present = [];
while (!present.length) present = await session.presence("user").catch(() => []);
const unseen = await session.presence("other").catch((error) => error.name);
session.close();
console.log(JSON.stringify({ got, refused, away, position: typeof position, present: typeof present[0].since, unseen }));
