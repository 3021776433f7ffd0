// The text to ask about, and how it is read: as a text for the task's template, or as all of the
// prompt.

import { h } from "./dom.js";
import { frameOf, textIn } from "./prompt.js";

const KEPT = "jumplora.text"; // in this tab, so that a reload does not lose it

export function textField() {
  const area = h("textarea", {
    id: "try-text",
    class: "field",
    rows: 5,
    required: true,
    spellcheck: "false",
    dir: "auto",
    "aria-describedby": "try-text-hint try-text-fault",
  });
  const hint = h("p", { id: "try-text-hint", class: "muted hint" });
  const fault = h("p", { id: "try-text-fault", class: "bad", hidden: true });
  const radio = (value, label) => {
    const input = h("input", {
      type: "radio",
      name: "try-form",
      value,
      checked: value === "text",
      onchange: changed,
    });
    return [input, h("label", {}, input, label)];
  };
  const [asText, asTextLabel] = radio("text", "text for the template");
  const [asWhole, asWholeLabel] = radio("inputs", "whole prompt");
  const prompt = h("pre", { tabindex: "0", role: "region", "aria-label": "The prompt" });
  const promptBox = h(
    "details",
    { class: "template", ontoggle: showPrompt },
    h("summary", {}, "The prompt, as the model reads it"),
    prompt,
  );
  const example = h(
    "button",
    { type: "button", class: "button small plain", hidden: true, onclick: fillIn },
    "Use an example",
  );
  const element = h(
    "div",
    { class: "text" },
    h("div", { class: "row" }, h("label", { for: "try-text" }, "Text"), example),
    area,
    fault,
    h(
      "fieldset",
      { class: "row" },
      h("legend", { class: "unseen" }, "Read the text as"),
      asTextLabel,
      asWholeLabel,
    ),
    hint,
    promptBox,
  );
  area.addEventListener("input", changed);
  let canaries = [];
  let next = 0;
  let spec = null; // how the task makes a prompt of a text

  function changed() {
    hint.textContent = asWhole.checked
      ? "The whole prompt, as the model reads it: no template is put around it."
      : "The task's template is put around it.";
    showPrompt();
    keep({ text: area.value, isWhole: asWhole.checked });
  }

  /** The text is marked in what stands around it. */
  function showPrompt() {
    if (!promptBox.open) return;
    const frame = asWhole.checked || spec === null ? ["", ""] : frameOf(spec);
    const text = () => h("mark", {}, area.value || "…");
    prompt.replaceChildren(...frame.flatMap((part, place) => (place ? [text(), part] : [part])));
  }

  /** A canary is a prompt of which the adapter's maker says what it is answered with. The text
   *  alone is given where the prompt is the template's. */
  function fillIn() {
    const { prompt: whole } = canaries[next % canaries.length];
    const text = spec && textIn(spec, whole);
    next += 1;
    area.value = text ?? whole;
    (text === null ? asWhole : asText).checked = true;
    changed();
    area.focus();
  }

  function adopt(detail, { isBase }) {
    spec = detail?.manifest?.prompt ?? null;
    canaries = detail?.manifest?.canaries ?? [];
    next = 0;
    example.hidden = canaries.length === 0;
    promptBox.hidden = spec === null;
    const hasTemplate = spec !== null || (detail === null && !isBase);
    if (!hasTemplate) asWhole.checked = true;
    else if (asText.disabled) asText.checked = true; // as it was before a task without a template
    asText.disabled = !hasTemplate;
    changed();
  }

  function setFault(message) {
    fault.hidden = message === null;
    fault.textContent = message ?? "";
    if (message === null) area.removeAttribute("aria-invalid");
    else area.setAttribute("aria-invalid", "true");
  }

  const before = kept();
  if (before !== null) {
    area.value = before.text;
    (before.isWhole ? asWhole : asText).checked = true;
  }
  changed();
  return {
    element,
    adopt,
    setFault,
    value: () => area.value,
    form: () => (asWhole.checked ? "inputs" : "text"),
    focus: () => area.focus(),
  };
}

function keep(written) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(written));
  } catch {
    // There is no room for a text of some megabytes: this one is not kept.
    sessionStorage.removeItem(KEPT);
  }
}

function kept() {
  return JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
}
