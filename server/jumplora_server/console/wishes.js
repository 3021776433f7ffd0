// "More": limits, sampling and thresholds. What is left empty is not sent, so the adapter decides.

import { h } from "./dom.js";

const NUMBERS = [
  // name, label, what it is of, attributes
  ["max_new_tokens", "Most new tokens", "generate", { min: 1, step: 1 }],
  ["temperature", "Temperature", "generate", { min: 0, max: 100, step: "any" }],
  ["top_k", "Top k", "generate", { min: 1, step: 1 }],
  ["top_p", "Top p", "generate", { min: 0, max: 1, step: "any" }],
  ["seed", "Seed", "generate", { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 }],
  ["min_probability", "Least probability", "choose", { min: 0, max: 1, step: "any" }],
  ["min_mass", "Least mass", "choose", { min: 0, max: 1, step: "any" }],
  ["truncate", "Cut the prompt to", "both", { min: 1, max: 32768, step: 1 }],
];
const GROUPS = {
  generate: ["Generate", "With a temperature, top k or top p it draws; else it is greedy."],
  choose: ["Choose", "Below either it abstains."],
  both: ["Both", "Tokens; a longer prompt is refused where this is empty."],
};

const FIELD = /\bparameters\.(\w+)/g; // as the server's messages name them
const labelOf = (name) => NUMBERS.find(([known]) => known === name)?.[1];

/** A message of the server with the page's labels. */
export function labelled(message) {
  return message.replaceAll(FIELD, (named, name) => {
    const label = labelOf(name);
    return label === undefined ? named : `“${label}”`;
  });
}

export function wishes() {
  const fields = NUMBERS.map(([name, label, way, limits]) => {
    const id = `try-${name}`;
    const input = h("input", {
      id,
      class: "field",
      type: "number",
      inputmode: "decimal",
      placeholder: "as the task has it",
      ...limits,
    });
    return { name, way, input, element: h("div", {}, h("label", { for: id }, label), input) };
  });
  const element = h(
    "details",
    { class: "more" },
    h("summary", {}, "More: length, sampling, thresholds"),
    ...Object.entries(GROUPS).map(([way, [title, hint]]) =>
      h(
        "fieldset",
        {},
        h("legend", {}, title),
        h(
          "div",
          { class: "grid" },
          fields.filter((f) => f.way === way).map((f) => f.element),
        ),
        h("p", { class: "muted hint" }, hint),
      ),
    ),
  );
  // A number that is not allowed is shown, also where this is closed.
  element.addEventListener("invalid", () => (element.open = true), true);

  const read = (way) =>
    Object.fromEntries(
      fields
        .filter((field) => [way, "both"].includes(field.way) && field.input.value !== "")
        .map((field) => [field.name, field.input.valueAsNumber]),
    );
  const setMost = (tokens) => fields[0].input.setAttribute("max", tokens);
  /** Opens where a message of the server names one of the fields. */
  function openFor(message) {
    if (labelled(message) !== message) element.open = true;
  }
  return { element, read, setMost, openFor };
}
