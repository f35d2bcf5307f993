// The model card, the proof of parity, and the list of routes.

import { element, row } from "./element.js";
import { short, whole } from "./words.js";
import { detection, worth } from "./worth.js";

const FIGURES = {
  min_cosine: "smallest cosine of an image’s two embeddings",
  mean_cosine: "mean cosine",
  max_abs_error: "largest difference of a coordinate",
  max_norm_error: "how far a length is from 1",
  neighbour_agreement: "nearest neighbours that stay the same",
  max_score_error: "largest change of an OOD score, of their range",
  score_rank_correlation: "whether OOD scores keep their order",
  decision_agreement: "decisions that stay the same",
};

/** Return the facts about a model: `/v1/model`. */
export function modelCard(model) {
  const { student, teacher, preprocessing, calibration, evaluation } = model;
  const facts = [
    detection(evaluation),
    ...falseAlarms(calibration.realised),
    [
      "Decisions",
      `α = ${short(calibration.alpha)}, calibrated on ${whole(calibration.images)} familiar images`,
    ],
    ["Student", network(student)],
    ["Teacher", network(teacher)],
    ["Embedding", `${whole(model.width)} numbers of unit norm, in the ${model.space}’s space`],
    ["Input", `${preprocessing.width} × ${preprocessing.height} pixels, cut and resized here`],
    ["Artifact", element("code", {}, model.artifact)],
    ["Runs on", model.runner],
    ["Fingerprint", element("code", {}, model.fingerprint)],
  ];
  return [
    parity(model.parity),
    worth(evaluation),
    element(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    ),
  ];
}

function network(card) {
  return [
    element("strong", {}, card.architecture),
    `, ${whole(card.parameters)} parameters`,
    element("span", { class: "hint" }, `Licence: ${card.licence}`),
  ];
}

function falseAlarms(seen) {
  if (!seen) return []; // not measured for this detector and alpha
  const range = `${percent(seen.low)} to ${percent(seen.high)}`;
  return [
    [
      "False alarms",
      `${percent(seen.rate)} of ${whole(seen.images)} other familiar images (95 %: ${range})`,
    ],
  ];
}

function parity(seen) {
  return element(
    "details",
    { class: "proved" },
    element(
      "summary",
      {},
      element("span", { class: "badge proof" }, "✓ Parity passed"),
      element(
        "span",
        { class: "hint" },
        `cosine ≥ ${down(seen.min_cosine)} · ${percent(seen.neighbour_agreement)} of ` +
          `neighbours · ${percent(seen.decision_agreement)} of decisions`,
      ),
    ),
    element(
      "p",
      {},
      `This very file answered ${whole(seen.images)} times beside the student in float32 ` +
        `PyTorch, on real images. The worst it did:`,
    ),
    element(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures of parity" },
      element(
        "table",
        {},
        element(
          "thead",
          {},
          row("th", ["figure", "seen", "bound"], { scope: "col" }),
        ),
        element(
          "tbody",
          {},
          Object.keys(FIGURES).map((name) =>
            element(
              "tr",
              {},
              element("th", { scope: "row" }, FIGURES[name]),
              element("td", {}, figure(name, seen[name])),
              element("td", { class: "bound" }, bound(name, seen.bounds[name])),
            ),
          ),
        ),
      ),
    ),
  );
}

const isError = (name) => name.endsWith("_error");
/** Six decimals, never rounded up: 1.000000 is exactly 1. */
const down = (value) => (Math.floor(1e6 * value) / 1e6).toFixed(6);
const percent = (share) => `${Math.floor(1e4 * share) / 100}\u00a0%`;
const figure = (name, value) => (isError(name) ? value.toExponential(1) : down(value));
const bound = (name, value) => `${isError(name) ? "≤" : "≥"} ${value}`;

/** Return a table of the routes in an OpenAPI document. */
export function routesTable(document) {
  const routes = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => [method, path, route]),
  );
  return element(
    "table",
    {},
    element("thead", {}, row("th", ["request", "what it answers"], { scope: "col" })),
    element(
      "tbody",
      {},
      routes.map(([method, path, route]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, element("code", {}, `${method.toUpperCase()} ${path}`)),
          element("td", {}, (route.description ?? route.summary ?? "").split("\n\n")[0]),
        ),
      ),
    ),
  );
}
