/** The two ways to break something: cut this page's wire, and (in the demo) kill the model. */

const CUT_FOR = 6000;
const ASK_EVERY = 1200;
const POLL_EVERY = 500;

/**
 * @param {{button: HTMLButtonElement, text: HTMLElement, session: () => object, ask: () => void, log: object}} parts
 *   `ask` posts or asks what is on the pad once more: something must be on its way for trouble to be of interest
 */
export function wireCutter({ button, text, session, ask, log }) {
  const calm = text.textContent;
  let ticking = null;

  function mend() {
    clearInterval(ticking);
    ticking = null;
    session()?.reconnect();
  }

  function cut() {
    const until = performance.now() + CUT_FOR;
    let asked = 0;
    log.add({ type: "cut", text: "the wire is cut" });
    session().disconnect();
    button.classList.add("active");
    const tick = () => {
      const left = until - performance.now();
      if (left <= 0) return mend();
      button.textContent = `Mend it now (${Math.ceil(left / 1000)})`;
      text.textContent =
        "No connection. The page goes on asking over HTTP; the results wait in Kafka. Draw, or push from another process.";
      if (CUT_FOR - left >= asked * ASK_EVERY && asked < 4) {
        asked++;
        ask();
      }
    };
    ticking = setInterval(tick, 100);
    tick();
  }

  button.addEventListener("click", () => (ticking ? mend() : cut()));
  return {
    get active() { return ticking !== null; },
    /** The session is connected again: `filled` events came by resume. */
    mended(filled) {
      button.classList.remove("active");
      button.textContent = "Cut the wire";
      const events = `${filled} ${filled === 1 ? "event" : "events"}`;
      text.textContent = filled === null ? calm : `Back again: ${events} came by resume. Nothing is missing.`;
    },
  };
}

export function modelKiller({ button, text, url, ask, log }) {
  const call = (path, options) => fetch(new URL(path, url), options);
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  async function kill() {
    button.disabled = true;
    try {
      const answer = await call("/model/kill", { method: "POST" });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      log.add({ type: "model", text: "killed" });
      button.textContent = "Model is down";
      text.textContent = "Killed. The page goes on asking: it queues now, and is answered when the model is back.";
      await pause(POLL_EVERY);
      for (let round = 0; ; round++) {
        const { state } = await (await call("/model")).json();
        if (state === "running") break;
        if (round % 2 === 0 && round < 12) ask();
        await pause(POLL_EVERY);
      }
      log.add({ type: "model", text: "running again" });
      text.textContent = "The model is back, and what had queued is answered.";
    } catch (error) {
      text.textContent = `The demo does not answer: ${error.message}`;
    }
    button.textContent = "Kill the model";
    button.disabled = false;
  }

  button.hidden = false;
  button.addEventListener("click", kill);
}
