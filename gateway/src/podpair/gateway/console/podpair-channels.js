/**
 * The channels of a session: what is subscribed to and up to where, and what waits for the gateway's word about it.
 *
 * After each new connection every channel is subscribed to again, from the position of the last event that was taken.
 */

import { newId } from "./podpair-calls.js";
import { Invalid, Lost, SessionClosed, errorFrom } from "./podpair-protocol.js";

/** A rejection of what the gateway can't answer, because it does not read a frame with it; null: it can. */
const tooLong = (text, most) =>
  text.length > 0 && text.length <= most ? null : Promise.reject(new Invalid(`not 1 to ${most} characters: ${text.slice(0, 64)}`));

export class Channels {
  #state; #send; #answers = new Map(); #ended = null;

  /** @param {import("./podpair-protocol.js").ChannelStates} state @param {(frame: object) => boolean} send false: not connected */
  constructor(state, send) {
    this.#state = state;
    this.#send = send;
  }

  subscribe(channel, position) {
    return tooLong(channel, 200) ?? this.#answer(`subscribe ${channel}`, this.#state.subscribe(channel, position)).catch((error) => {
      this.#state.positions.delete(channel);
      throw error;
    });
  }

  unsubscribe(channel) {
    if (this.#state.positions.has(channel)) this.#send(this.#state.unsubscribe(channel));
  }

  async publish(channel, data) {
    await tooLong(channel, 200);
    const frame = { type: "publish", id: newId("p"), channel, data: data ?? null };
    return (await this.#answer(frame.id, frame, true)).position;
  }

  async presence(subject) {
    await tooLong(subject, 1024);
    const frame = { type: "presence", id: newId("q"), subject };
    return (await this.#answer(frame.id, frame, true)).sessions;
  }

  #answer(name, frame, once = false) {
    return new Promise((resolve, reject) => {
      if (this.#ended) return void reject(this.#ended);
      const before = this.#answers.get(name); // subscribed to twice: the second answer is for both
      const all = (how) => (it) => [before, { resolve, reject }].forEach((one) => one?.[how](it));
      this.#answers.set(name, { resolve: all("resolve"), reject: all("reject"), once });
      if (!this.#send(frame) && once) this.#settle(name, (it) => it.reject(new Lost("not connected now: nothing was sent")));
    });
  }

  #settle(name, how) {
    const waiting = this.#answers.get(name);
    this.#answers.delete(name);
    if (waiting) how(waiting);
    return Boolean(waiting);
  }

  /** Takes an event with a channel; true: somebody waited for it. */
  deliver(event) {
    const { type, channel, id } = event;
    if (!["subscribed", "published", "presence", "error"].includes(type)) return false;
    return this.#settle(id?.startsWith("s-") ? `subscribe ${channel}` : id, (waiting) => {
      if (type === "error") waiting.reject(errorFrom(event));
      else waiting.resolve(event);
    });
  }

  /** Publications whose answer can't come any more are lost; a subscription is made again. */
  disconnected() {
    for (const [name, { once }] of [...this.#answers]) {
      if (once) this.#settle(name, (it) => it.reject(new Lost("the connection broke before the answer")));
    }
  }

  end(error) {
    this.#ended = error ?? new SessionClosed("the session is closed");
    for (const name of [...this.#answers.keys()]) this.#settle(name, (it) => it.reject(this.#ended));
  }
}
