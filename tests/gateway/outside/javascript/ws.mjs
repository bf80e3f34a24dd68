// A WebSocket client asks a model and says what it is answered. Arguments: the client, the address, the token, the model's row.
import { createRequire } from "node:module";
import { argv, cwd, stdout } from "node:process";
import { pathToFileURL } from "node:url";

const [client, url, token, row] = argv.slice(2);
const loaded = await import(pathToFileURL(createRequire(`${cwd()}/`).resolve(client)));
const { WebSocket } = loaded.WebSocket ? loaded : loaded.default;
const socket = new WebSocket(url, ["podpair.v1", `bearer.${token}`]);
socket.addEventListener("error", (event) => stdout.write(`${JSON.stringify({ error: String(event.message) })}\n`));
socket.addEventListener("open", () => {
  socket.send(JSON.stringify({ type: "infer", id: "r", model: "digits", data: JSON.parse(row) }));
});
socket.addEventListener("message", ({ data }) => {
  stdout.write(`${data}\n`);
  if (JSON.parse(data).type === "result") socket.close(1000);
});
