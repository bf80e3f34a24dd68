/** Takes [{from, steps}] on stdin through podpair-protocol.js's SessionState; prints what each step gave. */
import { readFileSync } from "node:fs";
import { SessionState } from "./podpair-protocol.js";

const take = (state, step) => {
  const [[verb, value]] = Object.entries(step);
  switch (verb) {
    case "receive": return state.receive(value);
    case "next": return state.nextFrame(step.now);
    case "submit": {
      const { id, deadline = null, resend = true } = value;
      try {
        state.submit({ id, body: { model: "m" }, deadline, resend });
      } catch {
        return "raised";
      }
      return null;
    }
    case "adopt":
      try {
        state.adopt(value, step.body);
      } catch {
        return "raised";
      }
      return null;
    case "cancel": return state.cancel(value) ?? null;
    case "ask_to_cancel": return state.askToCancel(value);
    case "signal": return state.signal(value.id, value.name, value.data);
    case "refresh": return state.refresh(value) ?? null;
    case "disconnect": return state.disconnected() ?? null;
    case "refused": return state.refused();
    case "open": return [...state.open.keys()];
    case "position": return state.position;
    case "began": return state.began;
    case "query": return state.query();
    default: throw new Error(`no such step: ${verb}`);
  }
};

const given = JSON.parse(readFileSync(0, "utf8")).map(({ from = {}, steps }) => {
  const state = Object.assign(new SessionState(), from);
  return steps.map((step) => take(state, step));
});
process.stdout.write(JSON.stringify(given));
