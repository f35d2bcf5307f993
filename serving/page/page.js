// The page: load the model, accept images, send each to the service, show the answers.

import { entry } from "./answer.js";
import { Refusal, ask, keyed } from "./ask.js";
import { modelCard, routesTable } from "./card.js";
import { element } from "./element.js";
import { bytes } from "./words.js";

const AT_ONCE = 4; // requests in flight
const SHOWN = 8; // neighbours
const KINDS = {
  familiar: ["Of its own kind, held out", "Familiar example"],
  unfamiliar: ["Of another kind", "Unfamiliar example"],
};

const find = (selector) => document.querySelector(selector);
const chosen = new URLSearchParams(location.search).get("model");
/** The path of a route about the model that was chosen. */
function about(path, query = {}) {
  const asked = String(new URLSearchParams(chosen ? { ...query, model: chosen } : query));
  return asked ? `${path}?${asked}` : path;
}

const queue = [];
const entries = [];
let model = null;
let calibration = null;
let running = 0;
let counted = { all: 0, done: 0, familiar: 0, unfamiliar: 0, refused: 0 };

async function load() {
  [model, calibration] = await Promise.all([ask(about("v1/model")), ask(about("v1/calibration"))]);
  find("#trouble").hidden = true;
  find("#name").textContent = model.name;
  document.title = `${model.name} · Isogon`;
  find("#card").replaceChildren(...modelCard(model));
  find("#limit").textContent = `, at most ${bytes(model.limits.image_bytes)} each`;
  showRequests();
}

/** Complete the curl commands: with a key if one is needed, and the model if one was chosen. */
function showRequests() {
  const say = (selector, text) => {
    for (const place of document.querySelectorAll(selector)) place.textContent = text;
  };
  say("#curl .at", new URL(".", location.href).href);
  say("#curl .key", keyed() ? ' -H "Authorization: Bearer KEY"' : "");
  say("#curl .chosen", chosen ? ` -F model="${chosen}"` : "");
  say("#curl .query", chosen ? `?model=${encodeURIComponent(chosen)}` : "");
}

async function loadModels() {
  const names = (await ask("v1/models")).data.map((each) => each.id);
  const shown = chosen ?? names[0];
  const gone = !names.includes(shown);
  if (names.length < 2 && !gone) return;
  const select = find("#models select");
  if (gone) select.append(element("option", { selected: true, disabled: true }, shown));
  select.append(
    ...names.map((name) => element("option", { value: name, selected: name === shown }, name)),
  );
  select.onchange = () => location.assign(`?model=${encodeURIComponent(select.value)}`);
  find("#models").hidden = false;
}

async function loadExamples() {
  const { examples } = await ask(about("v1/examples"));
  if (!examples.length) return;
  const groups = Object.entries(KINDS).map(([kind, [title, name]]) => {
    const some = examples.filter((example) => example.kind === kind);
    if (!some.length) return null;
    return element(
      "div",
      { role: "group", "aria-labelledby": `examples-${kind}` },
      element("h3", { id: `examples-${kind}` }, title),
      some.map(({ image }, place) => exampleButton(image, `${name} ${place + 1}`)),
    );
  });
  find("#examples").append(...groups.filter(Boolean));
  find("#examples").hidden = false;
}

function exampleButton(image, name) {
  const button = element(
    "button",
    { type: "button", class: "example" },
    element("img", { src: image, alt: name }),
  );
  button.onclick = () => take([{ image: fileOf(image, name), name }]);
  return button;
}

/** Return the file of a data: URL; `fetch` would need a wider Content-Security-Policy. */
function fileOf(address, name) {
  const [head, text] = address.split(",");
  const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new File([data], name, { type: head.slice(5).split(";")[0] });
}

/** Put images at the top of the list and send them to the service. */
function take(images) {
  if (!images.length) return;
  if (counted.done === counted.all) {
    counted = { all: 0, done: 0, familiar: 0, unfamiliar: 0, refused: 0 };
  }
  const made = images.map(({ image, name }) => ({ image, shown: entry(image, name) }));
  entries.push(...made.map(({ shown }) => shown));
  find("#list").prepend(...made.map(({ shown }) => shown.element));
  find("#answers").hidden = false;
  counted.all += made.length;
  queue.push(...made);
  showProgress();
  while (running < AT_ONCE && queue.length) work();
}

async function work() {
  running += 1;
  while (queue.length) {
    const { image, shown } = queue.shift();
    const [kind, sentence] = await answered(image, shown);
    counted[kind] += 1;
    counted.done += 1;
    showProgress(sentence);
  }
  running -= 1;
}

/** Send one image; return the kind of result, and a sentence about it. */
async function answered(image, shown) {
  const limit = model?.limits.image_bytes;
  if (limit && image.size > limit) {
    const text = `It has ${bytes(image.size)}, more than the ${bytes(limit)} taken here.`;
    return ["refused", shown.refuse(text)];
  }
  shown.note("Asking …");
  try {
    const body = new FormData();
    body.append("images", image, image.name);
    const answer = await ask(about("v1/neighbours", { k: SHOWN }), {
      body,
      waiting: (seconds) => shown.note(`The service is busy; asking again in ${seconds} s …`),
    });
    if (answer.model.fingerprint !== model?.fingerprint) await load(); // another bundle was loaded
    const [result] = answer.results;
    const sentence = shown.show(result, calibration, answer.reference_images);
    return [result.ood.is_ood ? "unfamiliar" : "familiar", sentence];
  } catch (error) {
    if (error instanceof Refusal) {
      return ["refused", shown.refuse(error.message.replace(/^images\[0\]/, "It"))];
    }
    console.error(error); // and go on with the next image
    return ["refused", shown.refuse(`Its answer could not be shown: ${error.message}.`)];
  }
}

function showProgress(sentence) {
  const { all, done, familiar, unfamiliar, refused } = counted;
  const progress = find("#progress");
  progress.hidden = all === done;
  progress.max = all;
  progress.value = done;
  if (all !== done || !sentence) return;
  find("#status").textContent =
    all === 1
      ? sentence
      : `${all} images: ${familiar} familiar, ${unfamiliar} unfamiliar, ${refused} refused.`;
}

function clear() {
  counted.all -= queue.splice(0).length;
  for (const shown of entries.splice(0)) shown.forget();
  find("#list").replaceChildren();
  find("#answers").hidden = true;
  find("#files").focus();
}

const named = (files) => [...files].map((image) => ({ image, name: image.name || "Pasted image" }));

function listen() {
  const drop = find("#drop");
  const files = find("#files");
  files.onchange = () => {
    take(named(files.files));
    files.value = ""; // so that the same file can be chosen again
  };
  const holdsFiles = (event) => event.dataTransfer.types.includes("Files");
  document.ondragover = (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    drop.classList.add("over");
  };
  document.ondragleave = (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  };
  document.ondrop = (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    drop.classList.remove("over");
    take(named(event.dataTransfer.files));
  };
  document.onpaste = (event) => take(named(event.clipboardData.files));
  find("#clear").onclick = clear;
  showRequests();
  if (navigator.clipboard) {
    const copy = find("#copy");
    copy.hidden = false;
    copy.onclick = () =>
      navigator.clipboard.writeText(find("#curl").innerText).then(
        () => said("Copied"),
        () => said("Not copied: the browser does not allow it"),
      );
    const said = (text) => {
      find("#status").textContent = `${text}.`;
      copy.textContent = text;
      setTimeout(() => (copy.textContent = "Copy"), 2000);
    };
  }
  find("#routes").ontoggle = async ({ target }) => {
    const place = target.querySelector("div");
    if (!target.open || place.querySelector("table")) return;
    try {
      place.replaceChildren(routesTable(await ask("openapi.json")));
    } catch (error) {
      place.replaceChildren(element("p", {}, error.message));
    }
  };
}

async function start() {
  listen();
  try {
    await Promise.all([load().then(loadExamples), loadModels()]);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    find("#trouble").textContent = error.message;
    find("#trouble").hidden = false;
    if (!model) find("#name").textContent = "No model";
  }
}

start();
