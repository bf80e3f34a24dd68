/** The log of events: bounded, filtered, drawn once a frame however many come. */

const KEPT = 500;
const SHOWN = 150;
const KINDS = {
  requests: new Set(["infer", "cancel", "signal", "post", "accepted", "partial", "result", "error"]),
  pushes: new Set(["push", "gap"]),
  session: new Set(["welcome", "drain", "open", "reconnecting", "connecting", "closed", "disconnected", "cut", "model"]),
};

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hour12: false });

export class EventLog {
  #entries = []; #body; #kind; #find; #pending = false;

  constructor(body, kind, find) {
    this.#body = body;
    this.#kind = kind;
    this.#find = find;
    for (const control of [kind, find]) control.addEventListener("input", () => this.#plan());
  }

  /** @param {{type: string, text?: string, position?: string, resumed?: boolean, dropped?: boolean}} entry */
  add(entry) {
    this.#entries.unshift({ at: new Date(), ...entry });
    this.#entries.length = Math.min(this.#entries.length, KEPT);
    this.#plan();
  }

  #plan() {
    if (this.#pending) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      this.#body.replaceChildren(...this.#chosen().slice(0, SHOWN).map(row));
    });
  }

  #chosen() {
    const kind = this.#kind.value;
    const words = this.#find.value.trim().toLowerCase();
    return this.#entries.filter((entry) => {
      if (kind === "resumed" ? !entry.resumed : kind && !KINDS[kind].has(entry.type)) return false;
      return !words || `${entry.type} ${entry.text} ${entry.position}`.toLowerCase().includes(words);
    });
  }
}

function row({ at, type, text = "", position = "", resumed, dropped }) {
  const line = document.createElement("tr");
  line.className = `t-${type}`;
  line.classList.toggle("resumed", Boolean(resumed));
  line.classList.toggle("dropped", Boolean(dropped));
  const cells = [`${clock.format(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`, "", text, position];
  line.append(...cells.map((content) => Object.assign(document.createElement("td"), { textContent: content })));
  line.children[1].append(Object.assign(document.createElement("span"), { className: "type", textContent: type }));
  line.children[2].title = text;
  if (resumed) {
    const mark = Object.assign(document.createElement("span"), { className: "mark-resumed", textContent: "by resume" });
    line.children[1].append(" ", mark);
  }
  if (dropped) line.children[1].append(" seen before");
  return line;
}

/** What an event says, in a line. */
export function summary(event) {
  const { type, id, data, route } = event;
  switch (type) {
    case "welcome": return `session ${event.session} at ${event.gateway}${event.resumed ? ", resumed" : ""}`;
    case "accepted": return `${id} ${route}`;
    case "result": return `${id} ${short(data?.label ?? data ?? event.outputs)}`;
    case "error": return `${id ?? ""} ${event.code}: ${event.message}`;
    case "gap": return `from ${event.from} to ${event.to}: ${event.reason}`;
    case "drain": return `reconnect after ${event.reconnect_after_ms} ms`;
    case "push": return short(data ?? event.data_base64);
    default: return `${id ?? ""} ${short(data)}`;
  }
}

export function short(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value) ?? "";
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
