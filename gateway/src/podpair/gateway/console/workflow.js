/** The workflow's card: the stages of a run as boxes, what a waiting one is sent, and the end of the whole. */

import { duration } from "./answer.js";
import { WorkflowRun } from "./stages.js";

const RUNS = 20;
const WORDS = {
  pending: "not yet", started: "running", retrying: "tries again", waiting: "waits", received: "received", finished: "done",
  skipped: "skipped", failed: "failed", compensating: "being undone", compensated: "undone", ended: "no word of its end",
};
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "short" });
const make = (tag, className, more = {}) => Object.assign(document.createElement(tag), { className, ...more });

export class WorkflowView {
  #card; #list; #choice; #state; #stop; #runs = new Map(); #shown = null; #boxes = new Map(); #actions;

  /**
   * @param {HTMLElement} card
   * @param {{signal: (id: string, name: string, data: unknown) => boolean, cancel: (id: string) => void}} actions
   */
  constructor(card, actions) {
    this.#card = card;
    this.#actions = actions;
    [this.#list, this.#choice, this.#state, this.#stop] = ["ol", "select", ".badge", "button"].map((part) => card.querySelector(part));
    this.#choice.addEventListener("input", () => this.#show(this.#choice.value));
    this.#stop.addEventListener("click", () => this.#actions.cancel(this.#shown.id));
    setInterval(() => this.#draw(), 1000); // what runs gets older
  }

  /** Ids of the runs that have not ended. */
  get open() { return [...this.#runs.values()].filter((run) => ["running", "cancelling"].includes(run.state)).map((run) => run.id); }

  /** Shows what will run, before anything has. */
  describe(declaration) {
    if (!this.#shown) this.#show(null, new WorkflowRun(null, 0, declaration));
  }

  begin(id, number, declaration) {
    this.#runs.set(id, new WorkflowRun(id, number, declaration));
    this.#choice.prepend(new Option(`#${number}`, id));
    while (this.#runs.size > RUNS) this.#forget([...this.#runs.keys()].find((each) => each !== id));
    this.#show(id);
  }

  /** @param {import("./podpair-calls.js").StageEvent[]} events */
  take(id, events) {
    const run = this.#runs.get(id);
    for (const event of [events].flat()) run?.take(event);
    this.#draw();
  }

  /** The run has ended: `finished`, `failed` or `cancelled`. */
  end(id, state, message) {
    this.#runs.get(id)?.end(state, message);
    this.#draw();
  }

  has(id) { return this.#runs.has(id); }

  #forget(id) {
    this.#runs.delete(id);
    [...this.#choice.options].find((option) => option.value === id)?.remove();
  }

  #show(id, run = this.#runs.get(id)) {
    this.#shown = run;
    this.#card.hidden = false;
    this.#choice.value = id ?? "";
    this.#choice.hidden = this.#runs.size < 2;
    this.#list.replaceChildren();
    this.#boxes.clear();
    this.#draw();
  }

  #draw() {
    const run = this.#shown;
    if (!run) return;
    const running = run.id !== null && run.state === "running";
    this.#state.textContent = run.id === null ? "nothing runs" : run.message ? `${run.state}: ${run.message}` : run.state;
    this.#card.dataset.state = run.id === null ? "" : run.state;
    this.#stop.disabled = !running;
    for (const stage of run.stages.values()) {
      if (!this.#boxes.has(stage.name)) this.#boxes.set(stage.name, new StageBox(this.#list, stage));
      this.#boxes.get(stage.name).draw(running, (name, data) => this.#actions.signal(run.id, name, data));
    }
  }
}

/** One stage's box. It is made once for a run and then changed, so that what is being typed stays. */
class StageBox {
  #stage; #box; #parts; #form = null;

  constructor(list, stage) {
    this.#stage = stage;
    this.#box = make("li", "stage");
    const parts = { name: "strong", kind: "span", state: "span", time: "span", items: "progress", note: "p" };
    this.#parts = Object.fromEntries(Object.entries(parts).map(([name, tag]) => [name, make(tag, name)]));
    this.#box.append(...Object.values(this.#parts));
    this.#parts.name.textContent = stage.name;
    this.#parts.kind.textContent = stage.kind;
    this.#parts.items.setAttribute("aria-label", `Items of ${stage.name} that are done`);
    list.append(this.#box);
  }

  draw(running, signal) {
    const stage = this.#stage;
    const { state, time, items, note } = this.#parts;
    this.#box.dataset.state = stage.state;
    state.textContent = [WORDS[stage.state] ?? stage.state, ...this.#details()].join(", ");
    const seconds = stage.seconds(Date.now() / 1000);
    const ticks = !stage.over && running;
    time.textContent = seconds === null || (!ticks && stage.ended === null) ? "" : duration(seconds * 1000);
    items.hidden = stage.of === null;
    Object.assign(items, { max: stage.of || 1, value: stage.of === 0 ? 1 : stage.done });
    note.textContent = stage.message || stage.progress;
    note.classList.toggle("fault", Boolean(stage.message));
    this.#ask(running && stage.state === "waiting", signal);
  }

  #details() {
    const { of, done, failed, attempt, until, state } = this.#stage;
    const found = [];
    if (of !== null) found.push(`${done} of ${of}`);
    if (failed) found.push(`${failed} failed`);
    if (attempt > 1) found.push(`attempt ${attempt}`);
    if (state === "waiting" && until) found.push(`until ${clock.format(until * 1000)}`);
    return found;
  }

  /** The form for what the stage waits for: there while it waits, once it was sent only that it was. */
  #ask(wanted, signal) {
    if (wanted === Boolean(this.#form)) return;
    this.#form?.remove();
    this.#form = wanted ? signalForm(this.#stage, signal) : null;
    if (this.#form) this.#box.append(this.#form);
  }
}

/** A form for a signal's name, where it isn't known, and data. */
function signalForm({ name: stage, waitsFor }, signal) {
  const form = make("form", "signal");
  const field = make("label", "label", { textContent: "what it waits for" });
  const name = field.appendChild(make("input", "", { value: waitsFor ?? stage, required: true }));
  field.hidden = waitsFor !== null;
  const label = make("label", "label", { textContent: "data, as JSON" });
  const data = label.appendChild(make("textarea", "", { rows: 2, spellcheck: false, value: '{"approved": true}' }));
  const fault = make("p", "fault");
  fault.setAttribute("role", "alert");
  const button = make("button", "primary", { textContent: waitsFor ? `Send “${waitsFor}”` : "Send" });
  form.append(field, label, fault, button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      if (!signal(name.value, JSON.parse(data.value))) throw new Error("the run has ended");
      fault.textContent = "";
      button.textContent = "Sent";
      for (const control of [name, data, button]) control.disabled = true;
    } catch (error) {
      fault.textContent = error.message;
    }
  });
  return form;
}
