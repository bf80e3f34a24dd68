// Offers subprotocols with ws and undici: `node offers.mjs URL TOKEN` prints {client: [outcome of each offer]}.
import { WebSocket as Undici } from "undici";
import WebSocket from "ws";

const [url, token] = process.argv.slice(2);
const offers = [[`bearer.${token}`], ["mqtt"], [`bearer.${token}`, "podpair.v1"], ["mqtt", "podpair.v1.raw", `bearer.${token}`]];

const ws = (offer) =>
  new Promise((resolve) => {
    const socket = new WebSocket(url, offer);
    socket.on("open", () => (resolve(socket.protocol), socket.terminate()));
    socket.on("error", (error) => resolve(`error: ${error.message}`));
    socket.on("unexpected-response", (_, answer) => {
      let body = "";
      answer.on("data", (data) => (body += data));
      answer.on("end", () => resolve(`${answer.statusCode} ${JSON.parse(body).error.message}`));
    });
  });

const undici = (offer) =>
  new Promise((resolve) => {
    const socket = new Undici(url, offer);
    socket.onopen = () => (resolve(socket.protocol), socket.close());
    socket.onerror = () => resolve("refused");
  });

const found = { ws: [], undici: [] };
for (const offer of offers) {
  found.ws.push(await ws(offer));
  found.undici.push(await undici(offer));
}
console.log(JSON.stringify(found));
process.exit(0);
