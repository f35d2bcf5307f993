// The student's evaluation: the gain of distillation, and the quality of detection.

import { element, row } from "./element.js";
import { short, whole } from "./words.js";

const VERDICTS = {
  paid: ["proof", "✓ Distilling has paid"],
  "not paid": ["caution", "! Distilling has not paid"],
  unclear: ["caution", "? Gain of distilling unclear"],
  unknown: ["plain", "Gain of distilling: not measured"],
};
const NETWORKS = {
  student: "student",
  undistilled: "undistilled",
  start: "closed-form start",
  teacher: "teacher",
};
const FIGURES = {
  knn_accuracy: "kNN",
  neighbour_overlap: "overlap@10",
  angle_distortion: "distortion",
};

/** Return the badge of the student, with its figures beside those of others. */
export function worth(evaluation) {
  if (!evaluation) {
    return element("p", { class: "proved" }, badge(...VERDICTS.unknown));
  }
  const { verdict, sentence } = evaluation.distillation;
  return element(
    "details",
    { class: "proved" },
    element(
      "summary",
      {},
      badge(...VERDICTS[verdict]),
      inShort(evaluation).map((text) => element("span", { class: "hint" }, text)),
    ),
    element("p", {}, withCode(sentence)),
    element(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures of the student" },
      figures(evaluation),
    ),
    element("p", { class: "hint" }, explained(evaluation)),
  );
}

/** Text in which backticks enclose code, as nodes. */
const withCode = (text) =>
  text.split("`").map((part, place) => (place % 2 ? element("code", {}, part) : part));

const badge = (kind, text) => element("span", { class: `badge ${kind}` }, text);

/** The main figures, each with those of the other networks. */
function inShort({ student, undistilled, teacher }) {
  return ["knn_accuracy", "neighbour_overlap"]
    .filter((key) => valueOf(student[key]) !== null)
    .map((key) => {
      const others = beside({ undistilled: undistilled?.[key], teacher: teacher?.[key] });
      return `${FIGURES[key]} ${figure(student[key])}${others && ` (${others})`}`;
    });
}

const beside = (others) =>
  Object.entries(others)
    .filter(([, found]) => valueOf(found) !== null)
    .map(([who, found]) => `${who} ${figure(found)}`)
    .join(", ");

function figures(evaluation) {
  const networks = Object.keys(NETWORKS).filter((name) => evaluation[name]);
  const shown = Object.keys(FIGURES).filter((key) =>
    networks.some((name) => valueOf(evaluation[name][key]) !== null),
  );
  const heads = ["network", ...shown.map((key) => FIGURES[key])];
  return element(
    "table",
    {},
    element("thead", {}, row("th", heads, { scope: "col" })),
    element(
      "tbody",
      {},
      networks.map((name) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, NETWORKS[name]),
          shown.map((key) => element("td", {}, figure(evaluation[name][key]))),
        ),
      ),
    ),
  );
}

function explained({ test_images, bank_images, undistilled, start, distillation }) {
  const weights = { true: " with pretrained weights", false: " with random weights" };
  return [
    `On ${whole(test_images)} test images against ${whole(bank_images)} of its bank. Lower is ` +
      "better for distortion.",
    undistilled &&
      `Undistilled: the same network${weights[distillation.pretrained] ?? ""} before training, ` +
        "cut to this width.",
    start && "Closed-form start: the student before any training step.",
  ]
    .filter(Boolean)
    .join(" ");
}

/** Return the fact of how well it detects, as name and value. */
export function detection(evaluation) {
  if (!evaluation?.detection) return ["Detection", "not measured"];
  const { sentence, alpha, served, detector, sets } = evaluation.detection;
  const of = {
    same: detector,
    site:
      `${detector} as fitted in training. It is not the one that answers: that was fitted at ` +
      "the site, and what it flags was not measured",
    reduced: `${detector} with its whole bank. Here it answers from a smaller one`,
  };
  return [
    "Detection",
    [
      element("strong", {}, sentence ?? "How many unfamiliar images it flags: not measured."),
      ...Object.entries(sets).map(([name, set]) =>
        element("span", { class: "hint" }, inSet(name, set, evaluation)),
      ),
      element("span", { class: "hint" }, `At α = ${short(alpha)}, by ${of[served]}.`),
    ],
  ];
}

function inSet(name, { kind, images, flagged, auroc }, { undistilled, teacher }) {
  const others = beside({ undistilled: undistilled?.auroc[name], teacher: teacher?.auroc[name] });
  const seen = [
    flagged === null ? `${whole(images)} images` : `${whole(flagged)} of ${whole(images)} flagged`,
    auroc && `AUROC ${figure(auroc)}${others && ` (${others})`}`,
  ];
  return `${name} (${kind}): ${seen.filter(Boolean).join(", ")}`;
}

/** The value of a figure, plain or with its interval; null where there is none. */
const valueOf = (found) => found?.value ?? found ?? null;
const figure = (found) => valueOf(found)?.toFixed(3) ?? "–";
