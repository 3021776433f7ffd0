// What an adapter's maker expects of it, and what it answered here.

import { h } from "./dom.js";

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
