/** A request on its way: what podpair.js gives for it, and what goes into its frame. */

import { Invalid, errorFrom } from "./podpair-protocol.js";

/**
 * What a workflow tells of one of its stages; of the whole, and so without a stage: `cancelling`.
 * @typedef {{stage?: string, time: number, attempt?: number, index?: number, of?: number, data?: unknown, message?: string,
 *   until?: number, event: "started" | "progress" | "retrying" | "waiting" | "received" | "finished" | "skipped" | "failed" |
 *   "compensating" | "compensated" | "cancelling"}} StageEvent
 *   `time`, `until`: Unix seconds; `index`, `of`: the item of a `for_each`, from 0 on, and how many there are
 */

/** `await` it for the result, or iterate over its events; leaving the loop early cancels it. */
export class Call {
  #events = []; #news = () => {}; #settle; #result; #accept; #actions;

  /** @param {string} id @param {{cancel: () => void, signal: (name: string, data: unknown) => boolean}} actions */
  constructor(id, actions) {
    this.id = id;
    this.route = null;
    this.done = false;
    this.#actions = actions;
    this.#result = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    /** Fulfilled once a gateway has accepted it, or its answer is there; rejected where it failed before. */
    this.accepted = new Promise((resolve, reject) => { this.#accept = { resolve, reject }; });
    // Who only iterates gets the error there.
    for (const promise of [this.#result, this.accepted]) promise.catch(() => {});
  }

  feed(event) {
    if (event.type === "accepted") this.route = event.route;
    if (event.type === "error") return this.fail(errorFrom(event));
    if (event.type !== "partial") this.#accept.resolve();
    const delivered = event.type === "result" ? { ...event, route: this.route } : event;
    this.#events.push(delivered);
    if (event.type === "result") {
      this.done = true;
      this.#settle.resolve(delivered);
    }
    this.#news();
  }

  fail(error) {
    this.done = true;
    this.#settle.reject(error);
    this.#accept.reject(error);
    this.#news();
  }

  cancel() { this.#actions.cancel(); }

  /**
   * Sends a workflow what one of its stages waits for (`wait_for`): the first signal of a name counts. It is sent again if the
   * connection breaks.
   * @returns {boolean} false: it has ended, as far as is known here
   */
  signal(name, data = null) { return this.#actions.signal(name, data); }

  then(...handlers) { return this.#result.then(...handlers); }
  catch(handler) { return this.#result.catch(handler); }
  finally(handler) { return this.#result.finally(handler); }

  /** Its events, as the loop over itself; leaving this one early lets it run on. */
  async *events() {
    for (;;) {
      while (this.#events.length) yield this.#events.shift();
      if (this.done) return void (await this.#result);
      await new Promise((resolve) => { this.#news = resolve; });
    }
  }

  async *[Symbol.asyncIterator]() {
    try {
      yield* this.events();
    } finally {
      this.cancel();
    }
  }

  /** What a workflow, asked with `stream`, tells of its stages. @returns {AsyncIterable<StageEvent>} */
  async *stages() { yield* stagesOf(this); }
}

/** The events of stages in those of a workflow's request. @param {AsyncIterable<object>} events */
export async function* stagesOf(events) {
  for await (const { type, data } of events) if (type === "partial") yield* [data].flat();
}

const isTensors = (input) => Array.isArray(input) && input[0]?.shape !== undefined && input[0]?.datatype !== undefined;

/** The members of a request's frame, from what its user says. */
export function requestBody(model, input, { parameters, route, onDisconnect, stream, traceparent, delay } = {}) {
  const plain = ArrayBuffer.isView(input) ? Array.from(input) : input;
  const member = isTensors(plain) ? "inputs" : "data";
  const delayMs = delay ? Math.round(delay) : undefined;
  return { model, [member]: plain, parameters, route, on_disconnect: onDisconnect, stream, traceparent, delay_ms: delayMs };
}

const hex = (byte) => byte.toString(16).padStart(2, "0");

/** An id that nobody else has. */
export const newId = (kind) => `${kind}-${Array.from(crypto.getRandomValues(new Uint8Array(6)), hex).join("")}`;

/** The value as JSON has it: what is sent again later is what it was. Throws Invalid where that is nothing. */
export function jsonOf(value, id) {
  try {
    return JSON.parse(JSON.stringify(value));
  } catch (cause) {
    throw new Invalid(`it is not JSON: ${cause.message}`, { id, cause });
  }
}
