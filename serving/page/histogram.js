// The calibration's scores as bars, the threshold, and where one image stands.

import { svg } from "./element.js";
import { short, whole } from "./words.js";

const WIDTH = 360;
const TOP = 40; // above: two rows of labels
const BASE = 160;
const HEIGHT = 188;
const EDGE = 6;
const BEYOND = 0.3; // of the range, right of the familiar scores

let drawn = 0;

/** Return the figure for a score; scores far beyond are shown by an arrow at the edge. */
export function histogram(calibration, score, flagged) {
  const { edges, counts, threshold, images } = calibration;
  const low = edges[0];
  const high = edges.at(-1);
  const end = Math.max(high, threshold) + BEYOND * (high - low || 1);
  const x = (value) =>
    EDGE + ((WIDTH - 2 * EDGE) * (Math.min(Math.max(value, low), end) - low)) / (end - low || 1);
  const tallest = Math.max(...counts);
  const bars = counts.map((count, place) =>
    svg("rect", {
      x: x(edges[place]) + 0.5,
      width: Math.max(x(edges[place + 1]) - x(edges[place]) - 1, 0.5),
      y: BASE - ((BASE - TOP) * count) / tallest,
      height: ((BASE - TOP) * count) / tallest,
    }),
  );
  const beyond = score > end;
  const here = x(score);
  const limit = x(threshold);
  const name = `beyond-${(drawn += 1)}`;
  const side = here > WIDTH * 0.62 ? "end" : here < WIDTH * 0.38 ? "start" : "middle";
  return svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      class: flagged ? "histogram flagged" : "histogram",
      "aria-label":
        `Histogram of the OOD scores of ${whole(images)} familiar images, from ${short(low)} ` +
        `to ${short(high)}. Scores above ${short(threshold)} are flagged. This image has ` +
        `${short(score)}, ${flagged ? "above" : "at or below"} that.`,
    },
    svg(
      "clipPath",
      { id: name },
      svg("rect", { x: limit, y: 0, width: WIDTH - limit, height: HEIGHT }),
    ),
    svg("rect", { class: "zone", x: limit, y: TOP - 4, width: WIDTH - limit, height: BASE - TOP + 4 }),
    svg("g", { class: "bars" }, bars),
    svg("g", { class: "bars tail", "clip-path": `url(#${name})` }, bars.map((bar) => bar.cloneNode())),
    svg("path", { class: "axis", d: `M0 ${BASE}H${WIDTH}` }),
    svg("path", { class: "limit", d: `M${limit} ${TOP - 4}V${BASE}` }),
    svg("path", { class: "here", d: `M${here} ${18}V${BASE}` }),
    svg(
      "text",
      limit > WIDTH / 2
        ? { class: "faint", x: WIDTH, y: TOP - 9, "text-anchor": "end" }
        : { class: "faint", x: limit + 4, y: TOP - 9 },
      `flagged above ${short(threshold)}`,
    ),
    svg("path", {
      class: "tip",
      d: beyond
        ? `M${here - 7} ${(TOP + BASE) / 2 - 6}l9 6l-9 6z`
        : `M${here} ${BASE}l-4.5 8h9z`,
    }),
    svg(
      "text",
      { class: "this", x: beyond ? WIDTH - 2 : here, y: 12, "text-anchor": beyond ? "end" : side },
      `this image: ${short(score)}${beyond ? " →" : ""}`,
    ),
    svg("text", { class: "faint", x: 0, y: HEIGHT - 4 }, "more familiar"),
    svg("text", { class: "faint", x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }, "less familiar"),
  );
}
