// Connects as docs/clients.md has it for Node.js: connect.mjs ADDRESS TOKEN [ws]. Prints one JSON object.
import { connect } from "./podpair.js";

const [address, token, from] = process.argv.slice(2);
const options = from === "ws" ? { WebSocket: (await import("ws")).WebSocket } : {};
try {
  const session = await connect(address, { token, ...options });
  const { data } = await session.infer("digits", new Float32Array(64));
  session.close();
  console.log(JSON.stringify({ label: data.label }));
} catch (error) {
  console.log(JSON.stringify({ name: error.name, message: error.message }));
}
