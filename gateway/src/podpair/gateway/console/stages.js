/** A run of a workflow as its events tell it: what each stage does, without a page or a clock. */

const PROGRESS_SHOWN = 300;

/** The kinds of stages, in the words of a declaration, and how they are said. */
const KINDS = {
  model: (stage) => `model ${stage.model}`,
  step: (stage) => `step ${stage.step}`,
  gateway: (stage) => `model ${stage.gateway.model} behind ${stage.gateway.topic}`,
  wait_for: (stage) => `waits for ${stage.wait_for}`,
};

/** What a declaration says of a stage, in a few words. */
export function kindOf(declared) {
  const kind = Object.keys(KINDS).find((name) => declared?.[name] != null);
  return kind ? KINDS[kind](declared) : "";
}

/** What one stage has come to. */
export class Stage {
  /** `pending`, or the last event's word; `ended` where its end never came, though the run has ended. */
  state = "pending";
  attempt = null; message = ""; progress = ""; until = null; began = null; ended = null;
  /** Of a `for_each`: how many items there are, and the last event's word of each. */
  of = null; items = new Map();

  constructor(name, declared = null) {
    this.name = name;
    /** The signal that it waits for; null where the declaration isn't known, or it waits for none. */
    this.waitsFor = declared?.wait_for ?? null;
    this.kind = kindOf(declared);
  }

  /** Items that have ended, well or not. */
  get done() { return [...this.items.values()].filter((state) => ENDS.has(state)).length; }
  get failed() { return [...this.items.values()].filter((state) => state === "failed").length; }
  get over() { return ENDS.has(this.state) || this.state === "ended"; }

  /** Seconds that it took, or has taken by `now`; null before it has begun. */
  seconds(now) {
    if (this.began === null || this.state === "skipped") return null;
    return Math.max(0, (this.ended ?? now) - this.began);
  }

  take({ event, time, index, of, attempt, message, data, until }) {
    if (of != null) this.of = of;
    if (message != null) this.message = index == null ? message : `item ${index}: ${message}`;
    if (event === "progress") this.#advance(data);
    if (index != null) {
      if (event !== "progress") this.items.set(index, event);
      if (this.state === "pending") this.#enter("started", time);
      return;
    }
    if (attempt != null) this.attempt = attempt;
    if (event === "progress") return;
    this.until = until ?? null;
    this.#enter(event, time);
  }

  #enter(state, time) {
    this.state = state;
    this.began ??= time;
    this.ended = ENDS.has(state) ? time : null;
    if (state === "started" || state === "finished") this.message = "";
  }

  /** Parts of a text are joined; of anything else the newest counts. */
  #advance(data) {
    const text = typeof data === "string" ? this.progress + data : JSON.stringify(data) ?? "";
    this.progress = text.length > PROGRESS_SHOWN ? `…${text.slice(-PROGRESS_SHOWN)}` : text;
  }
}

const ENDS = new Set(["finished", "skipped", "failed", "compensated"]);

/** One run: its stages, those of the declaration first, in its order, and further ones as they appear. */
export class WorkflowRun {
  /** `running`, `cancelling`, `finished`, `failed` or `cancelled`. */
  state = "running";
  message = "";

  constructor(id, number, declaration) {
    this.id = id;
    this.number = number;
    this.declaration = declaration;
    const declared = Object.entries(declaration?.stages ?? {});
    this.stages = new Map(declared.map(([name, stage]) => [name, new Stage(name, stage)]));
  }

  /** @param {import("./podpair-calls.js").StageEvent} event */
  take(event) {
    if (event?.event === "cancelling" && this.state === "running") this.state = "cancelling";
    if (typeof event?.stage !== "string") return;
    if (!this.stages.has(event.stage)) this.stages.set(event.stage, new Stage(event.stage));
    this.stages.get(event.stage).take(event);
  }

  end(state, message = "") {
    this.state = state;
    this.message = message;
    for (const stage of this.stages.values()) if (!stage.over && stage.state !== "pending") stage.state = "ended";
  }
}
