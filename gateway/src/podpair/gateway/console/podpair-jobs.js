/**
 * Jobs: requests whose answers are fetched later, by any page or process, at any gateway.
 *
 *   import { attach, submit } from "/podpair-jobs.js";
 *   const reference = await submit("https://models.example", "summarize", text, { token, stream: true });
 *   const job = await attach("https://models.example", reference, { token });
 *   const { data } = await job.result();
 *
 * `podpair.client` has the same in Python; each follows the other's jobs. A job has a session of its own, since one connection
 * at a time holds a session.
 */

import { newId, requestBody, stagesOf } from "./podpair-calls.js";
import { Session, connect } from "./podpair.js";
import { Cancelled, Invalid, Lost, SessionClosed } from "./podpair-protocol.js";

const VERSION = 1;
/** How long a gateway may take to end a request that is given up before it was accepted. */
const CANCEL_GRACE = 5_000;

/**
 * Asks a model through Kafka, and returns once the request is safe there.
 * @param {string | URL} url as for `connect`
 * @param {string} model
 * @param {unknown} input as for `Session.infer`
 * @param {{deadline?: number, delay?: number, parameters?: object, stream?: boolean, id?: string, traceparent?: string,
 *   signal?: AbortSignal}} [options] beside those of `connect`. `delay`: milliseconds from now before which it does not begin.
 *   Aborting before it has returned cancels the job, as far as a gateway can be reached within 5 s.
 * @returns {Promise<string>} the job's reference, a text to be kept; with a token of the same subject it gives access to the job
 */
export async function submit(url, model, input, options = {}) {
  const { deadline, delay, parameters, stream, traceparent, signal, id = newId("j"), ...how } = options;
  const session = await connect(url, how);
  try {
    if (signal?.aborted) throw new Cancelled("cancelled before it was sent", { id, cause: signal.reason });
    const call = session.infer(model, input, { deadline, delay, parameters, stream, traceparent, id, route: "queue" });
    await whenAccepted(session, call, signal);
    // Of the session that has it: another one than at first, where that could not be resumed.
    return encode([VERSION, id, session.session, session.resume ?? "", session.began ?? ""]);
  } finally {
    session.close();
  }
}

async function whenAccepted(session, call, signal) {
  let abort;
  const aborted = new Promise((resolve) => { abort = () => resolve(true); });
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  try {
    if (!(await Promise.race([call.accepted, aborted]))) return;
    session.askToCancel(call.id);
    await Promise.race([call.then(() => {}, () => {}), after(CANCEL_GRACE, call)]);
    throw new Cancelled("cancelled", { id: call.id, cause: signal.reason });
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** Fulfilled after a while, or never if the call has ended before: a timer keeps no process alive for nothing. */
function after(milliseconds, call) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(true), milliseconds);
    call.finally(() => clearTimeout(timer)).catch(() => {});
  });
}

/**
 * Follows a job that was submitted before, here or elsewhere. Whoever else follows it at that time loses it (TakenOver).
 *
 * Whether its answer was among events that can't be had any more (a gap) nobody knows: it is `Lost` then, unless you say what was
 * submitted as `again`. Then it is repeated with the same id, and **may run twice**; one answer arrives.
 * @param {string | URL} url as for `connect`
 * @param {string} reference what `submit` has returned
 * @param {{again?: {model: string, input: unknown, parameters?: object, stream?: boolean, traceparent?: string}}} [options]
 *   beside those of `connect`
 * @returns {Promise<Job>}
 */
export async function attach(url, reference, options = {}) {
  const [, id, name, resume, position] = decode(reference);
  const { again, ...how } = options;
  const session = new Session(url, { ...how, resume: resume || null, position: position || null });
  // Before it is open: events may come together with its welcome.
  const call = session.adopt(id, { body: again && requestBody(again.model, again.input, { ...again, route: "queue" }) });
  await session.open();
  if (session.session !== name) {
    session.close();
    throw new Lost(`the gateway has another session: it does not know ${name} any more`, { id });
  }
  return new Job(session, call, reference);
}

/** A request that was submitted. Iterate over it for its events, `partial`…, `result`; leaving the loop leaves the job alone. */
export class Job {
  #session; #call;

  constructor(session, call, reference) {
    this.#session = session;
    this.#call = call;
    /** What `attach` finds it with. */
    this.reference = reference;
  }

  get id() { return this.#call.id; }
  /** Whether it has ended, as far as is known here. */
  get done() { return this.#call.done; }

  /**
   * The answer. The job goes on if nobody waits any more.
   * @param {{timeout?: number}} [options] `timeout`: milliseconds, after which it rejects with a DOMException "TimeoutError"
   */
  result({ timeout } = {}) { return this.#within(timeout, this.#call.then((result) => result)); }

  [Symbol.asyncIterator]() { return this.#call.events(); }

  /** What a workflow, submitted with `stream`, tells of its stages. @returns {AsyncIterable<import("./podpair-calls.js").StageEvent>} */
  stages() { return stagesOf(this); }

  /** As `Call.signal`. */
  signal(name, data = null) { return this.#call.signal(name, data); }

  /**
   * Ends it, and waits until it has ended.
   * @param {{timeout?: number}} [options] as for `result`; the word is on its way then
   * @returns {Promise<boolean>} false: it had an answer before the word came to it
   */
  async cancel({ timeout } = {}) {
    this.#session.askToCancel(this.id);
    try {
      await this.result({ timeout });
      return false;
    } catch (error) {
      if (error instanceof Lost || error instanceof SessionClosed || error.name === "TimeoutError") throw error;
      return error instanceof Cancelled;
    }
  }

  /** Leaves the job, which goes on. */
  close() { this.#session.close(); }

  async #within(timeout, promise) {
    if (timeout == null) return promise;
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new DOMException("the job has not ended yet", "TimeoutError")), timeout);
    });
    try {
      return await Promise.race([promise, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** JSON in URL-safe base64, as `podpair.client` writes it. */
function encode(members) {
  const bytes = new TextEncoder().encode(JSON.stringify(members));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function decode(reference) {
  let members = null;
  try {
    const bytes = Uint8Array.from(atob(reference.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    members = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch { /* it is none */ }
  if (Array.isArray(members) && members[0] > VERSION) throw new Invalid("this reference of a job was made by a newer podpair.js");
  const texts = Array.isArray(members) && members.length === 5 && members.slice(1).every((each) => typeof each === "string");
  if (!texts || members[0] !== VERSION) throw new Invalid("this is no reference of a job: it is what `submit` has returned");
  return members;
}
