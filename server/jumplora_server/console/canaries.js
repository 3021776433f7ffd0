// What an adapter's maker expects of it, and what it answered here.

import { h } from "./dom.js";
import { counted } from "./format.js";

const SHORT_CHARS = 280;

/** A table of `[{prompt, expected, got, is_right}]`. */
export function canaryTable(canaries) {
  if (!canaries.length) return h("p", { class: "muted" }, "Its maker gave none.");
  const rows = canaries.map(({ prompt, expected, got, is_right: isRight }) =>
    h(
      "tr",
      {},
      h("td", {}, longText(prompt)),
      h("td", {}, longText(expected)),
      h("td", {}, answer(got, isRight)),
    ),
  );
  const head = h(
    "tr",
    {},
    ["Asked", "Expected", "Got here"].map((name) => h("th", { scope: "col" }, name)),
  );
  return h(
    "table",
    { class: "canaries", "aria-label": "Canaries" },
    h("thead", {}, head),
    h("tbody", {}, rows),
  );
}

/** What an upload's canaries came to, as a sentence. */
export function canariesSaid(canaries) {
  const asked = canaries.filter(({ got }) => got !== null);
  if (asked.length === 0) return "It brings no canaries, so no answer of it was checked.";
  const right = asked.filter(({ is_right: isRight }) => isRight).length;
  return `${right} of ${counted(asked.length, "canary", "canaries")} ${right === 1 ? "was" : "were"} right.`;
}

function answer(got, isRight) {
  if (got === null) return h("span", { class: "muted" }, "not asked here yet");
  const mark = isRight ? ["good", "✓ right"] : ["bad", "✗ wrong"];
  return [longText(got), h("div", { class: mark[0] }, mark[1])];
}

/** A text as it is; of a long one the beginning, and the rest for those who open it. */
function longText(text) {
  if (text.length <= SHORT_CHARS)
    return h("div", { class: "verbatim" }, text || h("span", { class: "muted" }, "(empty)"));
  return h(
    "details",
    { class: "verbatim" },
    h("summary", {}, `${text.slice(0, SHORT_CHARS)}…`),
    h("div", {}, text),
  );
}
