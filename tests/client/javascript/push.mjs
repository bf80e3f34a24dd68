// Subscribes as a page does it, with a browser that does what the test says.
import { subscribeWebPush } from "./podpair-push.js";

const [url, what] = [process.argv[2], JSON.parse(process.argv[3])];
const asked = [];
let old = what.old ? { unsubscribe: async () => { asked.push("unsubscribe"); old = null; } } : null;
const pushManager = {
  getSubscription: async () => old,
  subscribe: async (options) => {
    asked.push(options);
    if (old) throw new DOMException("another key", "InvalidStateError");
    if (what.denied) throw new DOMException("no", "NotAllowedError");
    return { toJSON: () => ({ endpoint: what.url, expirationTime: null, keys: what.keys }) };
  },
};
try {
  console.log(JSON.stringify({ asked, made: await subscribeWebPush(url, { pushManager }, { token: () => what.token, ...what.options }) }));
} catch (error) {
  console.log(JSON.stringify({ asked, error: error.name, message: error.message }));
}
