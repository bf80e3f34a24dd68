import { Unreachable, errorFrom } from "./podpair-protocol.js";

const CODE_OF_STATUS = { 400: "invalid", 401: "unauthorized", 403: "forbidden", 429: "overloaded", 503: "overloaded" };

/** Why an upgrade failed, which browsers don't say: the same GET without `Upgrade` runs the same checks. */
export async function whyRefused(url, jwt) {
  const probe = new URL(url);
  probe.protocol = probe.protocol.replace("ws", "http");
  const page = globalThis.location?.origin;
  const headers = jwt ? { Authorization: `Bearer ${jwt}` } : {};
  // Browsers send Origin with every upgrade, but not with a GET to where the page is from: it is to be judged alike.
  if (page === probe.origin) headers["podpair-origin"] = page;
  let answer;
  try {
    answer = await fetch(probe, { headers, cache: "no-store" });
  } catch (cause) {
    return new Unreachable(`no gateway answers at ${probe.origin}`, { cause });
  }
  if (answer.status === 426) {
    return new Unreachable("the upgrade failed, though the gateway accepts it: does a proxy before it pass upgrades on?");
  }
  const body = await answer.json().catch(() => null);
  const code = CODE_OF_STATUS[answer.status] ?? "unreachable";
  const error = errorFrom(body?.error?.code ? body.error : { code, message: `HTTP ${answer.status}, ${probe.origin}` });
  const hint = Number(answer.headers.get("Retry-After"));
  if (hint) error.retryAfter ??= hint * 1000;
  return error;
}
