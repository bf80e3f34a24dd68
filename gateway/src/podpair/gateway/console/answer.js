/** The answer as ten bars, and the way that its request took: what the gateway timed, and what this page's clock says. */

const $ = (id) => document.getElementById(id);

/** Milliseconds, with as many digits as one reads. */
export function duration(ms) {
  if (ms >= 9950) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** Legs of a finished request, in ms: `queue_ms` and `inference_ms` are the gateway's, the rest of the time is the wire's. */
export function legs({ begun, ended, resumed }, timing = {}) {
  const total = Math.max(0, ended - begun);
  const model = Math.min(total, timing.inference_ms ?? 0);
  // While nobody was connected the result lay in Kafka: beside that the wire's part is nothing.
  if (resumed) return { wire: 0, wait: total - model, model, total };
  const wait = Math.min(total - model, timing.queue_ms ?? 0);
  return { wire: total - wait - model, wait, model, total };
}

/**
 * `direct`; `queued` as asked for; `spilled` to the queue because the model next door had no room, or was down; `kept` in
 * Kafka because nobody was connected.
 */
export function wayOf({ asked, routes, resumed }) {
  if (resumed) return "kept";
  const last = routes.at(-1);
  if (last !== "queue") return last ?? "direct";
  return asked === "queue" ? "queued" : "spilled";
}

export function buildBars() {
  const bars = Array.from({ length: 10 }, (_, digit) => {
    const item = document.createElement("li");
    const [value, track, bar, name] = ["value", "track", "bar", "name"].map((className) =>
      Object.assign(document.createElement("span"), { className }),
    );
    track.append(bar);
    name.textContent = digit;
    item.append(value, track, name);
    return item;
  });
  $("bars").replaceChildren(...bars);
}

function showBars(probabilities) {
  const top = probabilities.indexOf(Math.max(...probabilities));
  [...$("bars").children].forEach((item, digit) => {
    const share = probabilities[digit];
    item.querySelector(".bar").style.height = `${Math.max(1.5, share * 100)}%`;
    item.querySelector(".value").textContent = `${Math.round(share * 100)}%`;
    item.classList.toggle("top1", digit === top);
    item.classList.toggle("some", share >= 0.02);
    item.setAttribute("aria-label", `${digit}: ${Math.round(share * 100)} percent`);
  });
  return probabilities[top];
}

/** The value without a batch dimension, whether the model kept it or not. */
const flat = (value) => (Array.isArray(value?.[0]) ? value[0] : value);

/** Shows a result; `final` ones are spoken too. */
export function showAnswer(result, request, { final }) {
  const probabilities = flat(result.data?.probabilities);
  const label = [result.data?.label].flat()[0];
  const isDigit = Array.isArray(probabilities) && probabilities.length === 10;
  $("bars").hidden = !isDigit;
  $("raw").hidden = isDigit;
  if (isDigit) {
    const share = Math.round(showBars(probabilities) * 100);
    $("digit").textContent = label;
    $("sure").textContent = `${share} % sure`;
    if (final) $("spoken").textContent = `The answer is ${label}, ${share} percent sure`;
  } else {
    $("digit").textContent = "";
    $("sure").textContent = "answered";
    $("raw").textContent = JSON.stringify(result.data ?? result.outputs, null, 2);
    if (final) $("spoken").textContent = "The model has answered";
  }
  $("model").textContent = `${result.model ?? ""} ${result.model_version ? `v${result.model_version}` : ""}`;
  showWay(result, request);
}

export function showFailure(error) {
  $("sure").textContent = error.message;
  $("digit").textContent = "–";
  $("model").textContent = error.code;
  $("spoken").textContent = `The request failed: ${error.message}`;
}

function showWay(result, request) {
  const way = wayOf(request);
  const { wire, wait, model, total } = legs(request, result.timing ?? undefined);
  $("journey").dataset.route = way;
  $("route").textContent = way === "kept" ? "kept in Kafka, come by resume" : way;
  $("way-title").textContent = `${way}: ${duration(total)} in all`;
  $("wait-name").textContent = way === "direct" ? "waiting" : "in Kafka";
  for (const [name, ms] of Object.entries({ wire, wait, model, total })) $(`leg-${name}`).textContent = duration(ms);
  $("ms-wire").textContent = way === "kept" ? "" : duration(wire);
  $("ms-wait").textContent = way === "direct" ? "" : duration(wait);
  $("ms-model").textContent = duration(model);
  for (const [name, ms] of Object.entries({ wire, wait, model })) {
    $("line").querySelector(`.${name}`).style.flexGrow = ms / (total || 1);
  }
}
