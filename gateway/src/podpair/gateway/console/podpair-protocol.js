/**
 * What podpair.js knows without a socket or a clock: its errors, and which requests are open, seen or to be sent again.
 *
 * Every request ends in exactly one terminal event although connections break at any moment; docs/protocol.md,
 * "Resuming", has the rules. `podpair.client.protocol` is the same in Python.
 */

/** Anything that podpair reports; `code` is the protocol's, `retryAfter` milliseconds or null, `id` the request's. */
export class PodpairError extends Error {
  /** @param {string} message @param {{id?: string, retryAfter?: number | null, cause?: unknown}} [more] */
  constructor(message, { id, retryAfter = null, cause } = {}) {
    super(message, { cause });
    this.name = new.target.name;
    this.code = new.target.code;
    this.id = id;
    this.retryAfter = retryAfter;
  }
  static code = "internal";
}
/** The request can't be understood, or doesn't fit the model. */
export class Invalid extends PodpairError { static code = "invalid"; }
/** No token, a bad or expired one, or another subject's resume token. */
export class Unauthorized extends PodpairError { static code = "unauthorized"; }
/** This page's origin isn't on the gateway's list. */
export class Forbidden extends PodpairError { static code = "forbidden"; }
/** No such model or version. */
export class NotFound extends PodpairError { static code = "not_found"; }
/** A bounded queue is full: `retryAfter` is the gateway's hint. */
export class Overloaded extends PodpairError { static code = "overloaded"; }
/** No answer before the deadline. */
export class DeadlineExceeded extends PodpairError { static code = "deadline_exceeded"; }
/** Cancelled; `cause` is the AbortSignal's reason. */
export class Cancelled extends PodpairError { static code = "cancelled"; }
/** The model failed, or its gateway can't reach it. */
export class Upstream extends PodpairError { static code = "upstream"; }
/** A fault of the gateway's own. */
export class Internal extends PodpairError { static code = "internal"; }
/** The connection broke, whether the request ran can't be known, and it was not to be sent again. */
export class Lost extends PodpairError { static code = "lost"; }
/** No gateway answers at that address. */
export class Unreachable extends PodpairError { static code = "unreachable"; }
/** The session has ended. */
export class SessionClosed extends PodpairError { static code = "closed"; }
/** A newer connection holds the session (4009). */
export class TakenOver extends SessionClosed { static code = "taken_over"; }

const ERRORS = new Map(
  [Invalid, Unauthorized, Forbidden, NotFound, Overloaded, DeadlineExceeded, Cancelled, Upstream, Internal, Lost,
    Unreachable, SessionClosed, TakenOver].map((kind) => [kind.code, kind]),
);

export function errorFrom({ code, message, id, retry_after_ms: retryAfter = null }) {
  const kind = ERRORS.get(code);
  const more = { id, retryAfter };
  return kind ? new kind(message || code, more) : new PodpairError(`${code}: ${message}`, more);
}

/** The address of the WebSocket behind what people write: http or ws, with or without /v1/ws, below a path or not. */
export function socketUrl(written, page) {
  const url = new URL(written, page);
  url.protocol = url.protocol.replace("http", "ws");
  if (!url.pathname.endsWith("/ws")) url.pathname = `${url.pathname.replace(/\/$/, "")}/v1/ws`;
  return url;
}

const SEEN_POSITIONS = 4096;

/** What outlives a connection: what is open, what was seen, what has to be sent again. No I/O, no clock. */
export class SessionState {
  session = null; resume = null; position = null; gateway = null; expiresAt = null; limits = {};
  /** The welcome of the present connection has come. */
  welcomed = false;
  /** Requests by id, in the order they were made: {id, body, deadline, resend, sent, retry, route, seq, cancelled}. */
  open = new Map();
  #outbox = []; #inFlight = 0; #controls = []; #seen = new Set(); #refusals = 0;

  submit(request) {
    if (this.open.has(request.id)) throw new Invalid(`request id ${request.id} is already open`, { id: request.id });
    this.open.set(request.id, { seq: -1, ...request });
    if (request.sent) this.#inFlight++;
    else this.#outbox.push(request.id);
  }

  /** Counts as open a request that was posted into this session over HTTP: it was queued, its events come here. */
  adopt(id) {
    this.submit({ id, body: {}, resend: false, sent: true, route: "queue" }); // there is nothing to send it from
  }

  /** The query parameters to connect with. */
  query() {
    // A position alone goes on with a session that the token names. After a welcome it comes with the resume token, or the
    // session is given up.
    const goesOn = this.position && (this.resume || this.session === null);
    return { ...(this.resume ? { resume: this.resume } : {}), ...(goesOn ? { position: this.position } : {}) };
  }

  /** The request has ended, one way or another. */
  forget(id) {
    const request = this.open.get(id);
    if (!request) return;
    this.open.delete(id);
    if (request.sent) this.#inFlight--;
    else this.#outbox.splice(this.#outbox.indexOf(id), 1);
  }

  /** Nobody waits for a request any more: tell the gateway, if it can know of it. */
  cancel(id) {
    const request = this.open.get(id);
    if (!request || request.cancelled) return;
    if (!request.sent) this.forget(id);
    else {
      request.cancelled = true;
      if (this.welcomed) this.#controls.push({ type: "cancel", id });
    }
  }

  refresh(token) {
    if (this.welcomed) this.#controls.push({ type: "refresh", token });
  }

  /** The next frame to send, or null. `now` is on the clock of the deadlines. */
  nextFrame(now) {
    if (!this.welcomed) return null;
    if (this.#controls.length) return this.#controls.shift();
    if (!this.#outbox.length || this.#inFlight >= (this.limits.in_flight ?? Infinity)) return null;
    const waiting = this.open.get(this.#outbox.shift());
    const frame = { type: "infer", id: waiting.id, ...waiting.body };
    if (waiting.deadline != null) frame.deadline_ms = Math.max(1, Math.round(waiting.deadline - now));
    if (waiting.retry) frame.retry = true;
    if (waiting.retry && waiting.seq >= 0) frame.seen = waiting.seq;
    waiting.sent = waiting.retry = true;
    this.#inFlight++;
    return frame;
  }

  disconnected() {
    this.welcomed = false;
    this.#controls = [];
  }

  /** A gateway answered 401: whether to ask again; once as before, for keys rotate, then for a new session. */
  refused() {
    if (++this.#refusals === 2 && this.resume) {
      this.resume = null;
      return true;
    }
    return this.#refusals === 1;
  }

  /** The events to deliver for one that arrived: none if it was seen or nobody waits, more after a welcome. */
  receive(event) {
    const { type, id, position } = event;
    if (type === "welcome") return [event, ...this.#welcome(event)];
    if (position && !this.#advance(position)) return [];
    if (type === "gap") {
      this.position = event.to ?? this.position;
      this.resume = event.resume ?? this.resume;
      return [event, ...this.#afterGap()];
    }
    if (id == null || !["accepted", "partial", "result", "error"].includes(type)) return [event];
    const request = this.open.get(id);
    if (!request) return [];
    if (type === "accepted") request.route = event.route;
    else if (type === "partial") {
      const seq = event.seq ?? request.seq + 1;
      if (seq <= request.seq || request.overlapped) return []; // a second run begins at 0 again
      // Merged parts of which some were given already: the result has the whole.
      request.overlapped = (event.from ?? seq) <= request.seq;
      if (request.overlapped) return [];
      request.seq = seq;
    } else this.forget(id);
    return request.cancelled ? [] : [event];
  }

  #welcome(event) {
    const { session: before, position: from } = this;
    Object.assign(this, { session: event.session, resume: event.resume, gateway: event.gateway });
    Object.assign(this, { expiresAt: event.expires_at ?? null, limits: event.limits ?? {} });
    if (this.welcomed) return []; // it answers a refresh: reading goes on where it is
    this.welcomed = true;
    this.#refusals = 0;
    this.position = event.position ?? from;
    if (before === null) return [];
    const continued = before === event.session && event.resumed;
    const events = continued ? [] : [{ type: "gap", from, to: event.position ?? null, reason: "session" }];
    return [...events, ...this.#reconcile(continued)];
  }

  /** docs/protocol.md, "Resuming": for each request on the broken wire, wait, send again or report lost. */
  #reconcile(continued) {
    const lost = [];
    for (const request of this.open.values()) {
      if (!request.sent || (request.route === "queue" && continued && !request.cancelled)) continue;
      if (!request.cancelled && request.route !== "queue" && request.resend) {
        Object.assign(request, { sent: false, route: undefined });
        continue;
      }
      this.forget(request.id);
      if (request.cancelled) this.#controls.push({ type: "cancel", id: request.id });
      else lost.push({ type: "error", id: request.id, code: "lost", message: "the connection broke before its end" });
    }
    this.#outbox = [...this.open.values()].filter((request) => !request.sent).map((request) => request.id);
    this.#inFlight = this.open.size - this.#outbox.length;
    return lost;
  }

  /** Queued requests, or their answers, may be in the gap. The gateway knows: ask again. */
  #afterGap() {
    const lost = [];
    for (const request of this.open.values()) {
      if (!request.sent || request.cancelled || request.route !== "queue") continue;
      if (request.resend) {
        Object.assign(request, { sent: false, route: undefined });
        continue;
      }
      this.forget(request.id);
      lost.push({ type: "error", id: request.id, code: "lost", message: "it may be in a gap" });
    }
    this.#outbox = [...this.open.values()].filter((request) => !request.sent).map((request) => request.id);
    this.#inFlight = this.open.size - this.#outbox.length;
    return lost;
  }

  #advance(position) {
    if (this.#seen.has(position)) return false;
    this.#seen.add(position);
    if (this.#seen.size > SEEN_POSITIONS) this.#seen.delete(this.#seen.values().next().value);
    this.position = position;
    return true;
  }
}

/** A request on its way: `await` it for the result, or iterate over its events; leaving the loop early cancels it. */
export class Call {
  #events = []; #news = () => {}; #settle; #result;

  constructor(id, cancel) {
    this.id = id;
    this.cancel = cancel;
    this.route = null;
    this.done = false;
    this.#result = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    this.#result.catch(() => {}); // who only iterates gets the error there
  }

  feed(event) {
    if (event.type === "accepted") this.route = event.route;
    if (event.type === "error") return this.fail(errorFrom(event));
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
    this.#news();
  }

  then(...handlers) { return this.#result.then(...handlers); }
  catch(handler) { return this.#result.catch(handler); }
  finally(handler) { return this.#result.finally(handler); }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#events.length) yield this.#events.shift();
        if (this.done) return void (await this.#result);
        await new Promise((resolve) => { this.#news = resolve; });
      }
    } finally {
      this.cancel();
    }
  }
}

/** What a close code asks for: null to reconnect, or the error that ends the session. */
export function afterClose(code, reason, canRenew) {
  if (!(code >= 4000 && code <= 4999)) return null;
  if (code === 4001) return canRenew ? null : new Unauthorized(reason || "the token expired");
  if (code === 4009) return new TakenOver(reason || "a newer connection took the session over");
  return new SessionClosed(reason || `the gateway closed the session (${code})`);
}
