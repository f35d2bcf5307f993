// The entry of one image in the list: waiting, refused, or answered.

import { element } from "./element.js";
import { histogram } from "./histogram.js";
import { short, verdict, whole } from "./words.js";

/** Return an entry of the list for an image; `image` is a file, `name` what to call it. */
export function entry(image, name) {
  const source = URL.createObjectURL(image);
  const picture = element("img", { class: "picture", src: source, alt: `Your image ${name}` });
  picture.onerror = () => picture.replaceWith(element("span", { class: "picture none" }, "?"));
  const said = element("div", { class: "said" }, element("p", { class: "hint" }, "Waiting …"));
  const made = element(
    "li",
    {},
    element(
      "article",
      { "aria-label": name, "aria-busy": "true" },
      picture,
      element("div", { class: "head" }, element("h3", {}, name), said),
    ),
  );
  const article = made.firstChild;
  return {
    element: made,
    /** Show the progress. */
    note(text) {
      said.replaceChildren(element("p", { class: "hint busy" }, text));
    },
    /** Show why there is no answer; return it as a sentence. */
    refuse(text) {
      settled("refused");
      said.replaceChildren(badge("refused", "!", "Refused"), element("p", {}, text));
      return `${name}: ${text}`;
    },
    /** Show an answer; return it as a sentence. */
    show(result, calibration, referenceImages) {
      const { ood } = result;
      const words = verdict(ood, calibration);
      const verdictName = ood.is_ood ? "Unfamiliar" : "Familiar";
      settled(verdictName.toLowerCase());
      said.replaceChildren(
        badge(verdictName.toLowerCase(), ood.is_ood ? "▲" : "✓", verdictName),
        element("p", {}, words),
        element(
          "p",
          { class: "hint" },
          `OOD score ${short(ood.score)}, p = ${short(ood.p_value)}`,
        ),
      );
      if (ood.score !== null) {
        article.append(
          element(
            "figure",
            { class: "scores" },
            element("figcaption", {}, "Its score among those of familiar images"),
            histogram(calibration, ood.score, ood.is_ood),
          ),
        );
      }
      article.append(neighbours(result.neighbours, referenceImages));
      return `${name}: ${verdictName}. ${words}`;
    },
    forget() {
      URL.revokeObjectURL(source);
    },
  };

  function settled(state) {
    article.removeAttribute("aria-busy");
    article.className = state;
  }
}

function badge(kind, sign, text) {
  return element(
    "p",
    { class: `verdict ${kind}` },
    element("span", { "aria-hidden": "true" }, sign),
    ` ${text}`,
  );
}

function neighbours(found, referenceImages) {
  return element(
    "figure",
    { class: "neighbours" },
    element(
      "figcaption",
      {},
      referenceImages
        ? `Nearest of ${whole(referenceImages)} reference images, by cosine`
        : "This bundle ships no reference images to show as neighbours.",
    ),
    element(
      "ul",
      {},
      found.map(({ image, label, cosine }) =>
        element(
          "li",
          {},
          element("img", {
            src: image,
            alt: label === null ? "Reference image" : `Reference image of class ${label}`,
          }),
          label === null ? null : element("span", { class: "label" }, label),
          element("span", { class: "cosine" }, cosine.toFixed(3)),
        ),
      ),
    ),
  );
}
