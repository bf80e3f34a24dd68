/** Where the console has its token from: a gateway that mints them (the demo), or the person in front of it. */

const STORED = "podpair.token";

/** A function for `connect`'s `token`: it asks the demo's gateway for one of this session. */
function minted(url, session) {
  return async () => {
    const answer = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ session }),
    });
    if (!answer.ok) throw new Error(`${url} gives no token (HTTP ${answer.status})`);
    return (await answer.json()).token;
  };
}

/** Asks for a token once, and again after `refused`; it stays in this tab. */
function pasted(dialog) {
  return async () => {
    const stored = sessionStorage.getItem(STORED);
    if (stored) return stored;
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    const token = dialog.querySelector("textarea").value.trim();
    sessionStorage.setItem(STORED, token);
    return token;
  };
}

/** @returns {{token: () => Promise<string>, refused: (error: Error) => boolean}} refused: whether to ask again */
export function tokenSource(settings, session, dialog) {
  if (settings.token_url) return { token: minted(settings.token_url, session), refused: () => false };
  const refused = (error) => {
    sessionStorage.removeItem(STORED);
    dialog.querySelector(".fault").textContent = error.message;
    return true;
  };
  return { token: pasted(dialog), refused };
}
