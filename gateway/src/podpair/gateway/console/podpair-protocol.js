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

/**
 * What is subscribed to: by channel, the position from which to go on; null: from now on. Each `subscribe` has an id, and until
 * its answer nothing of its channel is taken: it is about a former subscription, or one that the gateway made unasked.
 */
export class ChannelStates {
  positions = new Map();
  #asked = new Map(); #count = 0;

  subscribe(channel, position = null) {
    const id = `s-${++this.#count}`;
    this.#asked.set(channel, id);
    this.positions.set(channel, position);
    return { type: "subscribe", id, channel, ...(position ? { position } : {}) };
  }

  unsubscribe(channel) {
    this.positions.delete(channel);
    this.#asked.delete(channel);
    return { type: "unsubscribe", channel };
  }

  /** The frames with which a new connection begins. */
  frames() {
    return [...this.positions].map(([channel, position]) => this.subscribe(channel, position));
  }

  receive(event) {
    const { type, channel, id, position, to } = event;
    if (id != null && !id.startsWith("s-")) return [event]; // about a publication
    if ((id ?? null) !== (this.#asked.get(channel) ?? null)) return [];
    this.#asked.delete(channel);
    if (!this.positions.has(channel)) return [event];
    if (["unsubscribed", "error"].includes(type) && position == null) this.positions.delete(channel);
    else this.positions.set(channel, (type === "gap" ? to : position) ?? this.positions.get(channel));
    return [event];
  }
}

/** What outlives a connection: what is open, what was seen, what has to be sent again. No I/O, no clock. */
export class SessionState {
  session = null; resume = null; position = null; gateway = null; expiresAt = null; limits = {};
  /** The position at which the session began, as far as it was seen here. */
  began = null;
  /** What is subscribed to. */
  channels = new ChannelStates();
  /** The welcome of the present connection has come. */
  welcomed = false;
  /**
   * Requests by id, in the order they were made: {id, body, deadline, resend, sent, retry, route, seq, cancelled, cancelling,
   * signals}. `cancelling`: it is to be cancelled, and its terminal event is waited for. `signals`: what the stages of a
   * workflow wait for, by name; nothing acknowledges one, so each is sent again with every connection.
   */
  open = new Map();
  #outbox = []; #inFlight = 0; #controls = []; #seen = new Set(); #refusals = 0;

  submit(request) {
    if (this.open.has(request.id)) throw new Invalid(`request id ${request.id} is already open`, { id: request.id });
    this.open.set(request.id, { seq: -1, signals: new Map(), ...request });
    if (request.sent) this.#inFlight++;
    else this.#outbox.push(request.id);
  }

  /**
   * Counts as open a request that was queued in this session by somebody else: its events come here. With the `body` of its
   * frame it is sent again after a gap; without, it is lost then.
   */
  adopt(id, body = null) {
    this.submit({ id, body: body ?? {}, resend: Boolean(body), sent: true, retry: true, route: "queue" });
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
    request.cancelled = Boolean(request.retry); // else no gateway has seen it
    if (request.cancelled && this.welcomed) this.#controls.push({ type: "cancel", id });
    if (!request.sent && (this.welcomed || !request.cancelled)) this.forget(id);
  }

  /** Cancels a request whose terminal event is waited for all the same. Returns it, in a list, if no gateway has to say it. */
  askToCancel(id) {
    const request = this.open.get(id);
    if (!request || request.cancelling || request.cancelled) return [];
    if (!request.retry) { // no gateway has seen it
      this.forget(id);
      return [{ type: "error", id, code: "cancelled", message: "cancelled before it was sent" }];
    }
    if (!request.sent && this.welcomed) {
      const end = this.#takeBack(request);
      this.#recount();
      return [end];
    }
    request.cancelling = true;
    if (this.welcomed) this.#controls.push({ type: "cancel", id });
    return [];
  }

  /** Sends what a stage of a workflow waits for: the first signal of a name. False if the request is not open. */
  signal(id, name, data) {
    const request = this.open.get(id);
    if (!request || request.cancelled) return false;
    if (!request.signals.has(name)) {
      request.signals.set(name, data);
      if (request.sent && this.welcomed) this.#controls.push({ type: "signal", id, name, data });
    }
    return true;
  }

  /** Sends a frame about a channel on the present connection; false: there is none. */
  control(frame) {
    if (this.welcomed) this.#controls.push(frame);
    return this.welcomed;
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
    this.#signalAgain(waiting);
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
    if (typeof event.channel === "string") return this.channels.receive(event); // its position is the channel's
    if (typeof event.subject === "string") return [event]; // about presence: an error of it ends no request
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
    this.#controls.push(...this.channels.frames());
    this.position = event.position ?? from;
    if (before !== event.session) this.began = this.position;
    if (before === null) return [];
    const continued = before === event.session && event.resumed;
    const events = continued ? [] : [{ type: "gap", from, to: event.position ?? null, reason: "session" }];
    return [...events, ...this.#reconcile(continued)];
  }

  /** docs/protocol.md, "Resuming": for each request on the broken wire, wait, send again or report lost. */
  #reconcile(continued) {
    const lost = [];
    for (const request of this.open.values()) {
      const { id, sent, route, resend, cancelled, cancelling } = request;
      if (cancelled) {
        this.open.delete(id);
        this.#controls.push({ type: "cancel", id });
      } else if (!sent && !cancelling) continue;
      else if (sent && route === "queue" && continued) {
        if (cancelling) this.#controls.push({ type: "cancel", id }); // the word may not have got through
        this.#signalAgain(request);
      } else if (cancelling && resend) lost.push(this.#takeBack(request));
      else if (route === "queue" || !resend) lost.push(this.#lose(request, "the connection broke before its end"));
      else Object.assign(request, { sent: false, route: undefined });
    }
    this.#recount();
    return lost;
  }

  /** Queued requests, or their answers, may be in the gap. The gateway knows: ask again. */
  #afterGap() {
    const lost = [];
    for (const request of this.open.values()) {
      if (!request.sent || request.cancelled || request.route !== "queue") continue;
      if (!request.resend) lost.push(this.#lose(request, "it may be in a gap"));
      else if (request.cancelling) lost.push(this.#takeBack(request));
      else Object.assign(request, { sent: false, route: undefined });
    }
    this.#recount();
    return lost;
  }

  #lose({ id }, message) {
    this.open.delete(id);
    return { type: "error", id, code: "lost", message };
  }

  /** Ends a request that is to be cancelled instead of sending it again, and sends its cancellation once more. */
  #takeBack({ id }) {
    this.open.delete(id);
    this.#controls.push({ type: "cancel", id });
    return { type: "error", id, code: "cancelled", message: "cancelled before it was accepted again" };
  }

  /** Requests left `open` without `forget`: what waits for the wire, and what is on it. */
  #recount() {
    this.#outbox = [...this.open.values()].filter((request) => !request.sent).map((request) => request.id);
    this.#inFlight = this.open.size - this.#outbox.length;
  }

  #signalAgain({ id, signals }) {
    for (const [name, data] of signals) this.#controls.push({ type: "signal", id, name, data });
  }

  #advance(position) {
    if (this.#seen.has(position)) return false;
    this.#seen.add(position);
    if (this.#seen.size > SEEN_POSITIONS) this.#seen.delete(this.#seen.values().next().value);
    this.position = position;
    return true;
  }
}

/** What a close code asks for: null to reconnect, or the error that ends the session. */
export function afterClose(code, reason, canRenew) {
  if (!(code >= 4000 && code <= 4999)) return null;
  if (code === 4001) return canRenew ? null : new Unauthorized(reason || "the token expired");
  if (code === 4009) return new TakenOver(reason || "a newer connection took the session over");
  return new SessionClosed(reason || `the gateway closed the session (${code})`);
}
