// Requests to this service: with an API key if it needs one, repeated while it is busy.

const KEY = "isogon-api-key"; // in sessionStorage: it ends with the tab
const PATIENCE = 6; // attempts while the service is busy
const BUSY = new Set([429, 503]);
const IN_A_HEADER = /^[\x20-\x7e]+$/;

/** A refused request; the message is the service's. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let key = sessionStorage.getItem(KEY);
let asking = null;

/** Return whether requests have a key. */
export const keyed = () => key !== null;

/** Return the JSON that `path` answers; `waiting(seconds)` is called before a new attempt. */
export async function ask(path, { body, waiting = () => {} } = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const used = key;
    const response = await sent(path, body, used);
    if (response.status === 401) {
      await keyInsteadOf(used);
      attempt = 0;
    } else if (BUSY.has(response.status) && attempt < PATIENCE) {
      const seconds = Math.max(Number(response.headers.get("retry-after")) || 0, 1);
      waiting(seconds);
      await new Promise((done) => setTimeout(done, 1000 * seconds));
    } else if (response.ok) {
      if (used) sessionStorage.setItem(KEY, used);
      return documentOf(response);
    } else {
      throw new Refusal(response.status, await reasonOf(response));
    }
  }
}

async function sent(path, body, used) {
  const headers = used ? { authorization: `Bearer ${used}` } : {};
  try {
    return await fetch(path, { method: body ? "POST" : "GET", body, headers });
  } catch {
    throw new Refusal(
      0,
      "The connection broke. Is the service still running, and the file not too large?",
    );
  }
}

async function documentOf(response) {
  try {
    return await response.json();
  } catch {
    throw new Refusal(
      response.status,
      "What answered is not this service, or it broke off. Is there a proxy that wants a login?",
    );
  }
}

async function reasonOf(response) {
  try {
    return String((await response.json()).detail);
  } catch {
    return `The service answered ${response.status}.`;
  }
}

/** Wait for a key other than `refused`; several requests share one question. */
function keyInsteadOf(refused) {
  if (key !== refused) return Promise.resolve();
  asking ??= new Promise((given) => {
    const form = document.querySelector("#key");
    const input = form.querySelector("input");
    const hint = document.querySelector("#key-hint");
    if (refused) hint.textContent = "That key was refused. Try another.";
    form.hidden = false;
    input.focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      const shown = input.value.trim();
      if (!IN_A_HEADER.test(shown)) {
        hint.textContent = "A key has plain letters, digits and signs. Was it typed by hand?";
        input.focus();
        return;
      }
      key = shown;
      input.value = "";
      form.hidden = true;
      document.querySelector("#files").focus(); // the focused element is hidden now
      asking = null;
      given();
    };
  });
  return asking;
}
