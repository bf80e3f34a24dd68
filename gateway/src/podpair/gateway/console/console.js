/** The console: one session, what it is asked, and what comes. Each part of the page has its module; here they meet. */

import { buildBars, showAnswer, showFailure } from "./answer.js";
import { DigitPad, pixels, showPixels } from "./drawing.js";
import { EventLog, short, summary } from "./log.js";
import { Session, TakenOver, Unauthorized } from "./podpair.js";
import { Requests } from "./requests.js";
import { sample } from "./samples.js";
import { tokenSource } from "./tokens.js";
import { modelKiller, wireCutter } from "./trouble.js";
import { WorkflowView } from "./workflow.js";

const $ = (id) => document.getElementById(id);
const PUSHES_SHOWN = 4;
const FIRST_RETRY = 2000;
// What has a position and comes this soon after a resumed welcome was written while nobody was connected.
const CATCHING_UP = 1000;
// Where the tab keeps what a reloaded page goes on with: {resume, position, runs}.
const KEPT = "podpair.runs";

const settings = await (await fetch("console.json")).json();
const asksDigits = settings.model === "digits";
const sid = new URLSearchParams(location.search).get("session") ?? (settings.token_url ? "demo" : undefined);
const log = new EventLog($("log"), $("kind"), $("find"));
const tokens = tokenSource(settings, sid, $("ask-token"));
const requests = new Requests(settings.model, $("tray"), $("open-count"));
const pad = new DigitPad($("pad"));
const workflow = new WorkflowView($("workflow"), {
  signal(id, name, data) {
    log.add({ type: "signal", text: `${id} ${name} ${short(data)}` });
    return session.signal(id, name, data);
  },
  cancel(id) {
    log.add({ type: "cancel", text: id });
    session.askToCancel(id);
  },
});

let session = null;
let declaration = null; // of the model, if it is a workflow
let described = false;
let resumes = 0;
let resumedAt = -Infinity;
let filled = 0;
let pushes = 0;
let newest = 0; // number of the newest request that is shown

// --- asking ---------------------------------------------------------------------------------------------------------

const route = () => document.querySelector('input[name="route"]:checked').value;

function input() {
  if (asksDigits) return pad.empty ? null : pixels(pad.strokes.filter((stroke) => stroke.length));
  try {
    $("json-fault").textContent = "";
    return JSON.parse($("json").value);
  } catch (error) {
    $("json-fault").textContent = error.message;
    return null;
  }
}

function ask({ final = true } = {}) {
  const data = input();
  if (asksDigits) showPixels($("seen"), data ?? []);
  if (data === null || !session || session.state === "closed") return;
  if (session.state === "disconnected") {
    if (final) requests.post(session, tokens.token, data, route());
  } else requests.ask(session, data, route(), { final });
}

requests.addEventListener("begun", ({ detail: { request } }) => {
  const over = session.state === "disconnected";
  if (request.final) log.add({ type: over ? "post" : "infer", text: `${request.id} ${settings.model}, ${request.asked}` });
  if (requests.stream) {
    workflow.begin(request.id, request.number, declaration);
    $("sure").textContent = "running";
  }
  keepRuns();
});
requests.addEventListener("told", ({ detail: { request, data } }) => workflow.take(request.id, data));
requests.addEventListener("answered", ({ detail: { request, result } }) => {
  request.resumed = Boolean(result.position) && catchingUp();
  workflow.end(request.id, "finished");
  keepRuns();
  if (request.number < newest) return;
  newest = request.number;
  showAnswer(result, request, request);
});
requests.addEventListener("failed", ({ detail: { request, error } }) => {
  workflow.end(request.id, "failed", error.message);
  keepRuns();
  showFailure(error);
});
requests.addEventListener("cancelled", ({ detail: { request } }) => {
  workflow.end(request.id, "cancelled");
  keepRuns();
});

// --- a workflow -----------------------------------------------------------------------------------------------------

/** Learns from the model's metadata whether it is a workflow, and of what stages. */
async function describe() {
  if (described || asksDigits) return;
  described = true;
  const url = new URL(`v2/models/${encodeURIComponent(settings.model)}`, document.baseURI);
  const answer = await fetch(url, { headers: { Authorization: `Bearer ${await tokens.token()}` } }).catch(() => null);
  const metadata = answer?.ok ? await answer.json().catch(() => null) : null;
  if (metadata === null) described = false; // with the next connection, then
  else if (metadata.platform === "podpair_workflow") isWorkflow(metadata.workflow ?? null);
}

function isWorkflow(found) {
  declaration = found;
  requests.stream = true;
  document.querySelector(".routes").hidden = true; // it always goes through Kafka
  document.querySelector('input[name="route"][value="queue"]').checked = true;
  $("journey").hidden = true; // its time is its stages'
  $("workflow-title").textContent = `Workflow ${settings.model}`;
  workflow.describe(declaration);
}

/** What a reloaded page needs to go on with the runs of this one. */
function keepRuns() {
  const runs = workflow.open;
  if (!runs.length) return sessionStorage.removeItem(KEPT);
  const { resume, began: position } = session;
  sessionStorage.setItem(KEPT, JSON.stringify({ resume, position, runs, declaration }));
}

/** Goes on with the runs of the page before; their events come again from the first on. */
function takeUp() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  if (kept === null) return open();
  isWorkflow(kept.declaration);
  open(kept);
  requests.adopt(session, kept.runs);
}

// --- the session ----------------------------------------------------------------------------------------------------

const catchingUp = () => performance.now() - resumedAt < CATCHING_UP;

function open({ resume, position } = {}) {
  session = new Session(new URL("v1/ws", document.baseURI), { token: tokens.token, resume, position });
  session.addEventListener("event", ({ detail: { event, delivered } }) => arrived(event, !delivered));
  session.addEventListener("push", ({ detail }) => showPush(detail));
  session.addEventListener("gap", ({ detail }) => {
    if (detail.reason === "session") log.add({ type: "gap", text: summary(detail) });
  });
  session.addEventListener("state", ({ detail }) => changed(detail));
  changed({ state: "connecting" });
  session.open().catch(() => {}); // `state` says it
}

function arrived(event, dropped) {
  if (event.type === "welcome" && event.resumed && session.state !== "open") {
    resumedAt = performance.now();
    filled = 0;
    resumes++;
  }
  const resumed = Boolean(event.position) && event.type !== "welcome" && catchingUp();
  if (resumed && !dropped) {
    filled++;
    cutter.mended(filled);
  }
  const preview = requests.open.has(event.id) && !requests.open.get(event.id).final;
  if (!preview || event.type === "error") {
    log.add({ type: event.type, text: summary(event), position: event.position, resumed, dropped });
  }
  showSession();
}

function changed({ state, retryIn, error }) {
  log.add({ type: state, text: retryIn ? `in ${Math.round(retryIn)} ms` : error?.message });
  $("status").dataset.state = state;
  const words = { open: `connected to ${session.gateway}`, disconnected: "the wire is cut" };
  $("status-text").textContent = words[state] ?? state;
  $("cut").disabled = state === "closed" || state === "connecting";
  if (state === "open") {
    describe();
    hideBanner();
    cutter.mended(resumes ? filled : null);
  }
  if (state === "closed" && error) ended(error);
  showSession();
}

/** The session can't go on by itself: say why, and offer what a person can do about it. */
function ended(error) {
  const last = { resume: session.resume, position: session.position };
  // What the page before has left is too old, or another user's.
  if (sessionStorage.getItem(KEPT) && error instanceof Unauthorized && session.session === null) return open();
  if (error instanceof TakenOver) banner("Another page holds this session now.", "Take it back", () => open(last));
  else if (error instanceof Unauthorized && tokens.refused(error)) open();
  else if (error instanceof Unauthorized) banner(`The gateway refuses the token: ${error.message}`, "Try again", () => open());
  else {
    banner(`${error.message}.`, "Try now", () => open());
    setTimeout(() => session.state === "closed" && open(), Math.max(FIRST_RETRY, error.retryAfter ?? 0));
  }
}

function banner(text, action, callback) {
  $("banner-text").textContent = text;
  $("banner-action").textContent = action;
  $("banner-action").onclick = () => {
    hideBanner();
    callback();
  };
  $("banner").hidden = false;
}

function hideBanner() { $("banner").hidden = true; }

function showSession() {
  // A place in the user's home, `u<partition>.<offset>`, may stand on either side of the session's own.
  const own = /^([^.]+)(?:\.u\d+\.-?\d+)?\.(\d+)\.(-?\d+)/;
  const [, epoch, partition, offset] = own.exec(session.position ?? "") ?? [];
  $("s-id").textContent = session.session ?? "–";
  $("s-gateway").textContent = session.gateway ?? "–";
  $("s-home").textContent = offset === undefined ? "–" : partition;
  $("s-position").textContent = offset === "-1" ? "at the start" : offset ?? session.position ?? "–";
  $("s-position").title = offset === undefined ? "" : `epoch ${epoch}, partition ${partition}, offset ${offset}`;
  $("s-resumed").textContent = resumes ? `${resumes} ${resumes === 1 ? "time" : "times"}` : "not yet";
  $("s-expiry").textContent = untilExpiry();
  showCommand();
}

function untilExpiry() {
  if (!session?.expiresAt) return session?.session ? "never" : "–";
  const left = Math.max(0, Math.round((session.expiresAt - Date.now()) / 1000));
  return `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
}

setInterval(() => { $("s-expiry").textContent = untilExpiry(); }, 1000);

// --- pushes ---------------------------------------------------------------------------------------------------------

function showPush({ data, data_base64: encoded, position }) {
  const item = document.createElement("li");
  item.append(Object.assign(document.createElement("code"), { textContent: short(encoded ?? data) }));
  if (position && catchingUp()) {
    item.append(Object.assign(document.createElement("span"), { className: "mark-resumed", textContent: "by resume" }));
  }
  $("pushes").prepend(item);
  while ($("pushes").children.length > PUSHES_SHOWN) $("pushes").lastChild.remove();
  $("push-count").textContent = ++pushes;
}

function showCommand() {
  const kafka = settings.kafka ? `--kafka ${settings.kafka} ` : "";
  $("command").textContent = `podpair-gateway push ${kafka}--session ${session.session ?? sid ?? "…"} '{"hello": "world"}'`;
}

$("copy").addEventListener("click", async () => {
  const copied = await navigator.clipboard?.writeText($("command").textContent).then(() => true, () => false);
  $("copy").textContent = copied ? "Copied" : "Select it";
  if (!copied) getSelection().selectAllChildren($("command"));
  setTimeout(() => { $("copy").textContent = "Copy"; }, 1500);
});

// --- the page -------------------------------------------------------------------------------------------------------

const cutter = wireCutter({ button: $("cut"), text: $("trouble"), session: () => session, ask, log });
if (settings.demo_url) modelKiller({ button: $("kill"), text: $("trouble"), url: settings.demo_url, ask, log });

$("version").textContent = settings.version ?? "";
buildBars();
$("draw").hidden = !asksDigits;
$("editor").hidden = asksDigits;
$("editor-title").textContent = `Ask ${settings.model}`;
$("bars").hidden = !asksDigits;
$("send").addEventListener("click", () => ask());

let byHand = false;
pad.addEventListener("begin", () => {
  if (!byHand) pad.clear(); // the sample makes room for the first line of somebody's own
  byHand = true;
  $("hint").classList.add("gone");
});
pad.addEventListener("change", () => {
  if (!pad.empty) ask({ final: false });
  else showPixels($("seen"), []);
});
pad.addEventListener("stroke", () => ask());
$("clear").addEventListener("click", () => {
  byHand = true;
  pad.clear();
});
$("samples").append(
  ...Array.from({ length: 10 }, (_, digit) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: digit });
    button.setAttribute("aria-label", `Draw a ${digit}`);
    button.addEventListener("click", () => {
      byHand = false;
      pad.show(sample(digit));
    });
    return button;
  }),
);

takeUp();
if (asksDigits) session.addEventListener("state", () => session.state === "open" && pad.empty && !byHand && pad.show(sample(3)));
