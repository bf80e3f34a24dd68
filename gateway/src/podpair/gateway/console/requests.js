/**
 * The page's requests: while somebody draws one preview is on its way at a time, the end of a line is always asked for.
 *
 * While the wire is cut the page posts over HTTP instead: the results wait in Kafka, and come when the session resumes.
 */

import { Cancelled } from "./podpair.js";

const CHIPS = 24;
const LEAVING = 2500;

export class Requests extends EventTarget {
  /** Requests that have not ended, by id: {id, asked, routes, begun, ended, final, number, posted, resumed, chip}. */
  open = new Map();
  /** Ask for answers in parts, as a workflow's events are. */
  stream = false;
  #model; #tray; #count; #numbers = 0; #preview = null; #again = null;

  constructor(model, tray, count) {
    super();
    this.#model = model;
    this.#tray = tray;
    this.#count = count;
  }

  /** Asks over the session; an unfinished preview takes the place of further ones until it is back. */
  async ask(session, data, route, { final }) {
    if (!final && this.#preview) {
      this.#again = () => this.ask(session, data, route, { final });
      return;
    }
    const call = session.infer(this.#model, data, { route, ...this.#more });
    const request = this.#begin(call.id, route, final);
    if (!final) this.#preview = request;
    else this.#again = null;
    await this.#follow(call, request);
    if (this.#preview === request) {
      this.#preview = null;
      const again = this.#again;
      this.#again = null;
      again?.();
    }
  }

  /** Posts into a session that is not connected. */
  async post(session, token, data, route) {
    const id = `h-${this.#numbers + 1}-${Date.now().toString(36)}`;
    const call = session.adopt(id);
    const request = this.#begin(id, route, true);
    request.posted = true;
    const following = this.#follow(call, request);
    try {
      const url = new URL("v1/infer", document.baseURI);
      url.searchParams.set("resume", session.resume);
      const headers = { "Content-Type": "application/json", Authorization: `Bearer ${await token()}` };
      const body = JSON.stringify({ type: "infer", id, model: this.#model, data, route, ...this.#more });
      const answer = await fetch(url, { method: "POST", headers, body });
      const said = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Error(said.error?.message ?? `HTTP ${answer.status}`);
      this.#accepted(request, said.route ?? "queue");
    } catch (error) {
      this.#tell("failed", { request, error });
      call.cancel();
    }
    await following;
  }

  /** Takes up requests that the page before this one has left. */
  adopt(session, ids) {
    for (const id of ids) {
      const call = session.adopt(id);
      const request = this.#begin(id, "queue", true);
      this.#accepted(request, "queue");
      this.#follow(call, request);
    }
  }

  get #more() { return this.stream ? { stream: true } : {}; }

  #begin(id, asked, final) {
    const number = ++this.#numbers;
    const chip = Object.assign(document.createElement("li"), { textContent: `#${number}`, title: id });
    const request = { id, asked, final, number, chip, routes: [], begun: performance.now(), ended: 0 };
    this.open.set(id, request);
    if (final && this.#tray.children.length < CHIPS) this.#tray.append(chip);
    this.#counted();
    this.#tell("begun", { request });
    return request;
  }

  async #follow(call, request) {
    try {
      for await (const event of call) {
        if (event.type === "accepted") this.#accepted(request, event.route);
        if (event.type === "partial") this.#tell("told", { request, data: event.data });
        if (event.type === "result") this.#end(request, "done", "answered", { result: event });
      }
    } catch (error) {
      this.#end(request, "failed", error instanceof Cancelled ? "cancelled" : "failed", { error });
    }
  }

  #accepted(request, route) {
    request.routes.push(route);
    request.chip.className = request.posted ? "posted" : route;
    request.chip.textContent = `#${request.number} ${request.posted ? "waits in Kafka" : route}`;
  }

  #end(request, className, type, more) {
    request.ended = performance.now();
    this.open.delete(request.id);
    request.chip.className = className;
    const outcome = className === "done" ? more.result.data?.label ?? "✓" : "✗";
    request.chip.textContent = `#${request.number} ${outcome}`;
    setTimeout(() => request.chip.classList.add("leaving"), LEAVING);
    setTimeout(() => request.chip.remove(), LEAVING + 600);
    this.#counted();
    this.#tell(type, { request, ...more });
  }

  #counted() { this.#count.textContent = this.open.size; }

  #tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}
