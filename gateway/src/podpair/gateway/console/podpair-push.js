/**
 * Web Push: a browser's subscription to what comes for a user, or for a session, while its page is closed (docs/deliveries.md).
 *
 *   import { subscribeWebPush } from "/podpair-push.js";
 *   const registration = await navigator.serviceWorker.register("/worker.js");
 *   const { id } = await subscribeWebPush("https://models.example", registration, { token, scope: "subject" });
 *
 * The service worker gets the event as JSON: `self.addEventListener("push", ({ data }) => show(data.json()))`.
 */

import { Forbidden, Invalid, Unreachable, errorFrom } from "./podpair-protocol.js";

/**
 * Subscribes the browser at its push service with the gateways' key, and the gateway at the browser.
 * @param {string | URL} url as for `connect`
 * @param {ServiceWorkerRegistration} registration of the worker that is woken
 * @param {{token?: string | (() => string | Promise<string>), resume?: string, scope?: "session" | "subject",
 *   when?: "always" | "absent", events?: string[], models?: string[], ttl_seconds?: number,
 *   push?: {ttl_seconds?: number, urgency?: string, topic?: string}}} [options] `resume`: the token of a session that no claim
 *   names (`session.resume`); the others are members of POST /v1/subscriptions
 * @returns {Promise<object>} the subscription, whose `id` ends it: DELETE /v1/subscriptions/{id}
 * @throws {Forbidden} where the user has not allowed notifications, or the token allows no subscription
 */
export async function subscribeWebPush(url, registration, options = {}) {
  const { token, resume, ...members } = options;
  const where = new URL(url, globalThis.location?.href);
  where.protocol = where.protocol.replace("ws", "http");
  where.pathname = `${where.pathname.replace(/(\/v1\/ws)?\/?$/, "")}/v1/subscriptions`;
  const { web_push_key: key } = await ask(where, token);
  if (!key) throw new Invalid("there is no Web Push at this gateway (deliveries.web_push)");
  const { endpoint, keys } = (await subscribed(registration, key)).toJSON();
  if (resume) where.searchParams.set("resume", resume);
  return ask(where, token, { kind: "web_push", url: endpoint, keys, ...members });
}

async function subscribed(registration, key) {
  const wanted = { userVisibleOnly: true, applicationServerKey: key };
  const before = await registration.pushManager.getSubscription();
  try {
    return await registration.pushManager.subscribe(wanted);
  } catch (cause) {
    if (cause.name === "NotAllowedError") throw new Forbidden("the user has not allowed notifications", { cause });
    if (cause.name !== "InvalidStateError" || !before) throw cause;
    await before.unsubscribe(); // it was made with another key, which the gateways no longer have
    return registration.pushManager.subscribe(wanted);
  }
}

async function ask(where, token, body) {
  const jwt = typeof token === "function" ? await token() : token;
  const headers = { ...(jwt && { Authorization: `Bearer ${jwt}` }), ...(body && { "Content-Type": "application/json" }) };
  let answer;
  try {
    answer = await fetch(where, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (cause) {
    throw new Unreachable(`no gateway answers at ${where.origin}`, { cause });
  }
  const said = await answer.json().catch(() => null);
  if (answer.ok && said) return said;
  throw errorFrom(said?.error?.code ? said.error : { code: "unreachable", message: `HTTP ${answer.status}, ${where.origin}` });
}
