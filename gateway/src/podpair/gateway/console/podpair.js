/**
 * podpair.js: a session with a podpair gateway that survives the connections that carry it. No dependencies.
 *
 *   import { connect } from "/podpair.js";
 *   const session = await connect("wss://models.example", { token: () => fetchToken() });
 *   const { data } = await session.infer("digits", pixels);                        // the result, or a typed error
 *   for await (const event of session.infer("chat", prompt)) show(event);          // accepted, partial…, result
 *   session.addEventListener("push", ({ detail }) => show(detail.data));
 *
 * All times are milliseconds. `SessionState` (podpair-protocol.js) decides what to send again after a reconnect, `Session`
 * carries the frames, and a `Call` (podpair-calls.js) is what a request gives. podpair-jobs.js has jobs. Take all of podpair*.js along.
 */

import { Call, jsonOf, newId, requestBody } from "./podpair-calls.js";
import { Channels } from "./podpair-channels.js";
import {
  Cancelled, DeadlineExceeded, Forbidden, Invalid, Lost, Overloaded, SessionClosed, SessionState, Unauthorized, Unreachable,
  afterClose, socketUrl,
} from "./podpair-protocol.js";
import { whyRefused } from "./podpair-refusal.js";

export {
  Cancelled, DeadlineExceeded, Forbidden, Internal, Invalid, Lost, NotFound, Overloaded, PodpairError, SessionClosed,
  TakenOver, Unauthorized, Unreachable, Upstream,
} from "./podpair-protocol.js";

const DEFAULTS = {
  token: undefined, resume: null, position: null,
  backoff: { initial: 250, maximum: 30_000, factor: 2 },
  openTimeout: 10_000, deadlineGrace: 500, stableAfter: 5_000,
  maxOpen: 1024, maxBuffered: 1 << 20,
  rng: Math.random, clock: Date.now, WebSocket: globalThis.WebSocket,
};
const SUBPROTOCOL = "podpair.v1";
const WILL_RESUME = 3000; // 1000 would say that the session is done
const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * A session. Dispatches CustomEvents whose `detail` is the protocol's event: `push`, `gap`, `drain`, `welcome`, `error`
 * (one that belongs to no request); `publication` and what else is about a channel; `event` with {event, delivered} for each frame, the dropped ones too; and `state`
 * with {state, retryIn, error}: `connecting`, `open`, `reconnecting`, `disconnected`, `closed`.
 */
export class Session extends EventTarget {
  #url; #options; #protocol = new SessionState(); #calls = new Map(); #ws = null; #attempts = 0; #wake = () => {};
  #channels; #timers = {}; #since = 0; #online = () => this.#wake(); #refreshedFor = 0; #notBefore = 0; #round = 0;

  constructor(url, options) {
    super();
    this.#url = socketUrl(url, globalThis.location?.href);
    this.#options = { ...DEFAULTS, ...options, backoff: { ...DEFAULTS.backoff, ...options.backoff } };
    Object.assign(this.#protocol, { resume: this.#options.resume, position: this.#options.position });
    this.#channels = new Channels(this.#protocol.channels, (frame) => {
      const sent = this.#protocol.control(frame);
      this.#flush();
      return sent;
    });
    this.state = "connecting";
    /** Why the session ended; null while it lives, and after `close`. */
    this.error = null;
    if (typeof this.#options.WebSocket !== "function") {
      throw new Invalid('no WebSocket here (Node.js has one from 22 on): pass { WebSocket }, that of the package "ws"');
    }
    globalThis.addEventListener?.("online", this.#online);
  }

  get session() { return this.#protocol.session; }
  get position() { return this.#protocol.position; }
  /** The token with which another page can `connect(url, {resume, position})` to this session. */
  get resume() { return this.#protocol.resume; }
  /** The position at which the session began. */
  get began() { return this.#protocol.began; }
  get gateway() { return this.#protocol.gateway; }
  get limits() { return this.#protocol.limits; }
  /** Unix milliseconds at which the token ends; null where it doesn't. */
  get expiresAt() { return this.#protocol.expiresAt && this.#protocol.expiresAt * 1000; }
  /** How many requests have not ended. */
  get pending() { return this.#calls.size; }

  /**
   * Asks a model. `input` is the shorthand for one input (a row, or a list of rows) or an array of V2 tensors.
   * @param {string} model
   * @param {unknown} input
   * @param {{route?: "auto" | "direct" | "queue", deadline?: number, parameters?: object, signal?: AbortSignal,
   *   onDisconnect?: "detach" | "cancel", resend?: boolean, id?: string, stream?: boolean, traceparent?: string}} [options]
   *   `deadline`: milliseconds from now; `resend: false`: report `Lost` rather than run twice; `stream`: the answer's parts as `partial`.
   * @returns {Call}
   */
  infer(model, input, options = {}) {
    const { deadline, signal, resend = true, id = newId("r") } = options;
    const body = requestBody(model, input, options);
    return this.#begin(id, signal, (call) => {
      const { maxOpen, clock } = this.#options;
      if (this.#calls.size >= maxOpen) throw new Overloaded(`${maxOpen} requests are open`, { id });
      this.#protocol.submit({ id, body, resend, deadline: deadline == null ? null : clock() + deadline });
      if (deadline == null) return;
      const timer = setTimeout(() => this.#expire(id), Math.min(deadline + this.#options.deadlineGrace, LONGEST_TIMER));
      call.finally(() => clearTimeout(timer)).catch(() => {});
    });
  }

  /**
   * The events of a request that was posted into this session over HTTP (`POST /v1/infer`), or submitted. With the `body` of its
   * frame it is sent again after a gap; without, it is lost then.
   */
  adopt(id, { signal, body } = {}) {
    return this.#begin(id, signal, (call) => {
      this.#protocol.adopt(id, body);
      call.route = "queue";
    });
  }

  /**
   * Sends a workflow of this session what one of its stages waits for; `Call.signal` is the same.
   * @returns {boolean} false: no such request is open here
   */
  signal(id, name, data = null) {
    if (this.state === "closed") throw this.error ?? new SessionClosed("the session is closed", { id });
    const copy = jsonOf(data, id);
    const fault = this.#tooLarge(JSON.stringify({ type: "signal", id, name, data: copy }), id);
    if (fault) throw fault;
    const taken = this.#protocol.signal(id, name, copy);
    this.#flush();
    return taken;
  }

  /**
   * Subscribes to a channel: what is published comes as `publication` events with {channel, data, position}, what is missing as
   * `gap` events with the channel. Over reconnects it goes on where it was.
   * @param {string} channel
   * @param {{position?: string}} [options] the position of the last publication that is known; without, from now on
   * @returns {Promise<void>} once the gateway has subscribed; rejects with the typed error
   */
  async subscribe(channel, { position } = {}) { await this.#channels.subscribe(channel, position); }

  /** Ends the subscription to a channel. */
  unsubscribe(channel) { this.#channels.unsubscribe(channel); }

  /**
   * Publishes JSON to a channel.
   * @returns {Promise<string>} its position once the broker has it; rejects with Lost where that is not known
   */
  async publish(channel, data) {
    const fault = this.#tooLarge(JSON.stringify({ channel, data: jsonOf(data ?? null) }));
    if (fault) throw fault;
    return this.#channels.publish(channel, jsonOf(data ?? null));
  }

  /**
   * Which sessions of a subject are connected, at whichever gateways.
   * @returns {Promise<{session: string, since: number}[]>} `since` in Unix seconds
   */
  presence(subject) { return this.#channels.presence(subject); }

  /** Cancels a request whose end is waited for all the same: `cancel()` of a `Call` does not wait. */
  askToCancel(id) {
    for (const event of this.#protocol.askToCancel(id)) this.#deliver(event);
    this.#flush();
  }

  /** Ends the session: requests that are open fail with SessionClosed. */
  close() {
    this.#drop()?.close(1000);
    this.#end(null);
  }

  /** Drops the connection and stays away until `reconnect()`; the session lives on at the gateway. */
  disconnect() {
    if (this.state === "closed") return;
    this.#round++;
    this.#drop()?.close(WILL_RESUME);
    this.#wake();
    this.#setState("disconnected");
  }

  /** Connects again now: after `disconnect()`, or without waiting for the next attempt. */
  reconnect() {
    if (this.state === "disconnected") this.#reconnect(0);
    else this.#wake();
  }

  /** Connects for the first time; `connect` does it. */
  async open() {
    try {
      await this.#dial(this.#round);
    } catch (error) {
      this.#end(error);
      throw error;
    }
    return this;
  }

  // --- a request ------------------------------------------------------------------------------------------------

  #begin(id, signal, submit) {
    const call = new Call(id, { cancel: () => this.#cancel(id), signal: (name, data) => this.signal(id, name, data) });
    try {
      if (this.state === "closed") throw this.error ?? new SessionClosed("the session is closed", { id });
      if (signal?.aborted) throw new Cancelled("cancelled before it was sent", { id, cause: signal.reason });
      submit(call);
    } catch (error) {
      call.fail(error);
      return call;
    }
    this.#calls.set(id, call);
    const abort = () => this.#cancel(id, signal.reason);
    signal?.addEventListener("abort", abort, { once: true });
    call.finally(() => signal?.removeEventListener("abort", abort)).catch(() => {});
    this.#flush();
    return call;
  }

  #cancel(id, cause) {
    this.#protocol.cancel(id);
    this.#settle(id, (call) => call.fail(new Cancelled("cancelled", { id, cause })));
    this.#flush();
  }

  #expire(id) {
    this.#protocol.cancel(id);
    this.#settle(id, (call) => call.fail(new DeadlineExceeded("no answer before the deadline", { id })));
    this.#flush();
  }

  #settle(id, how) {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    if (call) how(call);
  }

  // --- frames ---------------------------------------------------------------------------------------------------

  /** Sends what waits, as long as the socket's buffer is below its bound; browsers don't say when it drains. */
  #flush() {
    while (this.#ws) {
      if (this.#ws.bufferedAmount >= this.#options.maxBuffered) return this.#timer("flush", 20, () => this.#flush());
      const frame = this.#protocol.nextFrame(this.#options.clock());
      if (!frame) return;
      const text = JSON.stringify(frame);
      const fault = this.#tooLarge(text, frame.id);
      if (fault) {
        this.#protocol.forget(frame.id);
        this.#settle(frame.id, (call) => call.fail(fault));
      } else this.#ws.send(text);
    }
  }

  #tooLarge(text, id) {
    const most = this.#protocol.limits.message_bytes ?? Infinity;
    if (text.length * 3 <= most || new TextEncoder().encode(text).length <= most) return null;
    return new Invalid(`the request is larger than this gateway takes (${most} bytes)`, { id });
  }

  #receive(event) {
    if (event.type === "welcome") this.#planRefresh(event.expires_at);
    else this.#attempts = 0;
    if (event.type === "drain") {
      this.#notBefore = this.#options.clock() + (event.reconnect_after_ms ?? 0);
      this.#timer("drain", event.reconnect_after_ms ?? 0, () => {
        this.#drop()?.close(WILL_RESUME);
        this.#lost(null);
      });
    }
    const events = this.#protocol.receive(event);
    this.#dispatch("event", { event, delivered: events.includes(event) });
    for (const each of events) this.#deliver(each);
    this.#flush();
  }

  #deliver(event) {
    if ((event.channel ?? event.subject) != null && this.#channels.deliver(event)) return;
    const call = this.#calls.get(event.id);
    if (!call) return void this.#dispatch(event.type, event);
    if (event.type === "result" || event.type === "error") this.#calls.delete(event.id);
    call.feed(event);
  }

  // --- one connection after the other ---------------------------------------------------------------------------

  async #dial(round) {
    const jwt = await this.#token();
    const url = new URL(this.#url);
    for (const [name, value] of Object.entries(this.#protocol.query())) url.searchParams.set(name, value);
    const ws = new this.#options.WebSocket(url, jwt ? [SUBPROTOCOL, `bearer.${jwt}`] : [SUBPROTOCOL]);
    ws.onerror = () => {}; // `onclose` follows; a WebSocket of Node's packages ends the process for an error that nobody hears
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => ws.close(), this.#options.openTimeout);
      ws.onclose = async ({ code, reason }) => {
        clearTimeout(timer);
        reject(afterClose(code, reason, this.#canRenew) ?? (await whyRefused(url, jwt)));
      };
      ws.onmessage = ({ data }) => {
        clearTimeout(timer);
        resolve();
        if (round !== this.#round) ws.close(WILL_RESUME); // disconnected or closed meanwhile
        else this.#carry(ws, JSON.parse(data));
      };
    });
  }

  /** From its welcome on, a socket carries the session. */
  #carry(ws, welcome) {
    this.#ws = ws;
    this.#since = this.#options.clock();
    ws.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    ws.onclose = ({ code, reason }) => {
      this.#drop();
      this.#lost(afterClose(code, reason, this.#canRenew));
    };
    this.#receive(welcome);
    if (this.#ws === ws) this.#setState("open");
  }

  /** Forgets the present connection, without waiting for its closing handshake. */
  #drop() {
    const ws = this.#ws;
    this.#ws = null;
    if (ws) {
      ws.onmessage = ws.onclose = null;
      if (this.#options.clock() - this.#since > this.#options.stableAfter) this.#attempts = 0;
    }
    this.#protocol.disconnected();
    this.#channels.disconnected();
    for (const name of Object.keys(this.#timers)) this.#timer(name, null);
    return ws;
  }

  #lost(error) {
    if (error) this.#end(error);
    else this.#reconnect(Math.max(0, this.#notBefore - this.#options.clock()));
  }

  /** Dials until a gateway welcomes the session, or until something makes that pointless. */
  async #reconnect(hint) {
    const round = ++this.#round;
    const { initial, maximum, factor } = this.#options.backoff;
    for (;;) {
      // Full jitter on top of a hint: a fleet that lost the same gateway spreads over the whole interval.
      const ceiling = Math.min(maximum, initial * factor ** Math.min(this.#attempts++, 64));
      const retryIn = hint + this.#options.rng() * ceiling;
      this.#setState("reconnecting", { retryIn });
      await new Promise((resolve) => {
        this.#wake = resolve;
        this.#timer("retry", retryIn, resolve);
      });
      if (round !== this.#round) return;
      try {
        return await this.#dial(round);
      } catch (error) {
        if (round !== this.#round) return;
        const pointless = error instanceof Forbidden || error instanceof Invalid || error instanceof SessionClosed;
        if (pointless || (error instanceof Unauthorized && !this.#protocol.refused())) return this.#end(error);
        hint = error.retryAfter ?? 0; // anything else may pass, the token function's own errors too
      }
    }
  }

  #end(error) {
    if (this.state === "closed") return;
    this.#round++;
    this.#drop();
    this.#wake();
    globalThis.removeEventListener?.("online", this.#online);
    this.error = error;
    this.#channels.end(error);
    for (const id of [...this.#calls.keys()]) {
      const lost = error && new Lost(`the session ended: ${error.message}`, { id, cause: error });
      this.#settle(id, (call) => call.fail(lost ?? new SessionClosed("the session was closed", { id })));
    }
    this.#setState("closed", { error });
  }

  // --- small things ---------------------------------------------------------------------------------------------

  get #canRenew() { return typeof this.#options.token === "function"; }

  async #token() { return this.#canRenew ? await this.#options.token() : this.#options.token; }

  #planRefresh(expiresAt) {
    this.#timer("refresh", null);
    if (expiresAt == null || !this.#canRenew || expiresAt <= this.#refreshedFor) return;
    const left = expiresAt * 1000 - this.#options.clock();
    // A moment already past means that the clocks differ; 4001 will tell. Jitter only shortens.
    const delay = left <= 0 ? 30_000 : Math.max(left * 0.8, left - 60_000) * (1 - 0.1 * this.#options.rng());
    this.#timer("refresh", delay, async () => {
      this.#refreshedFor = expiresAt; // not twice for the same, whatever the token function gives
      const jwt = await this.#token().catch(() => null); // then 4001 comes, and a reconnect tries again
      if (jwt) this.#protocol.refresh(jwt);
      this.#flush();
    });
  }

  /** One timer of each name; null clears it. */
  #timer(name, delay, callback) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
    if (delay !== null) this.#timers[name] = setTimeout(callback, Math.min(delay, LONGEST_TIMER));
  }

  #setState(state, more = {}) {
    this.state = state;
    this.#dispatch("state", { state, ...more });
  }

  #dispatch(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}

/**
 * A session with the gateway at `url`; rejects with the typed error where it can't be had.
 * @param {string | URL} url where clients find the gateway, with or without `/v1/ws`; relative to the page, or absolute
 * @param {{token?: string | (() => string | Promise<string>), resume?: string, position?: string,
 *   backoff?: {initial?: number, maximum?: number, factor?: number}, openTimeout?: number, maxOpen?: number,
 *   WebSocket?: typeof WebSocket}} [options]
 *   with a function for `token` it is renewed before it expires; `resume` and `position` continue another's session;
 *   of a session that the token names `position` alone does
 * @returns {Promise<Session>}
 */
export async function connect(url, options = {}) {
  return new Session(url, options).open();
}
