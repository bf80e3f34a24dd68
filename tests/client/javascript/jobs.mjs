/** Submits or follows one job: jobs.mjs ADDRESS WHAT, WHAT as JSON. Prints one JSON object with what became of it. */
import { WebSocket } from "ws";
import { attach, submit } from "./podpair-jobs.js";

const [address, what] = process.argv.slice(2);
const { how = {}, input, model, options = {}, giveUp, reference, then = "result", again } = JSON.parse(what);
const connecting = { token: "jwt", WebSocket, rng: () => 0, ...how };

async function submitted() {
  const controller = new AbortController();
  /** Gives up as soon as the request is on the wire. */
  class GivingUp extends WebSocket {
    send(text) {
      super.send(text);
      controller.abort("enough");
    }
  }
  const how = { ...connecting, ...options, signal: controller.signal, ...(giveUp && { WebSocket: GivingUp }) };
  return { reference: await submit(address, model, input, how) };
}

async function followed() {
  const job = await attach(address, reference, { ...connecting, again });
  const { id, session } = { id: job.id, session: job.reference === reference };
  try {
    switch (then) {
      case "result": return { id, session, data: (await job.result()).data, done: job.done };
      case "late": return { data: await job.result({ timeout: 1 }).catch(({ name }) => name), done: job.done };
      case "cancel": return { cancelled: await job.cancel() };
      case "parts": {
        const parts = [];
        for await (const { type, data } of job) parts.push([type, data]);
        return { parts };
      }
      case "first part": {
        for await (const { data } of job) if (data) return { data };
        return {};
      }
      case "approve": {
        const seen = [];
        for await (const { stage, event } of job.stages()) {
          seen.push([stage, event]);
          if (event === "waiting") job.signal(stage, { approved: true });
        }
        return { seen, data: (await job.result()).data, late: job.signal("late") };
      }
      default: throw new Error(then);
    }
  } finally {
    job.close();
  }
}

try {
  console.log(JSON.stringify(await (reference === undefined ? submitted() : followed())));
} catch (error) {
  console.log(JSON.stringify({ name: error.name, message: error.message, cause: error.cause?.name ?? error.cause }));
}
