// The text to ask about, and how it is read: as a text for the task's template, or as all of the
// prompt.

import { h } from "./dom.js";

export function textField() {
  const area = h("textarea", {
    id: "try-text",
    class: "field",
    rows: 5,
    required: true,
    spellcheck: "false",
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
      onchange: explain,
    });
    return [input, h("label", {}, input, label)];
  };
  const [asText, asTextLabel] = radio("text", "text for the template");
  const [asWhole, asWholeLabel] = radio("inputs", "whole prompt");
  const template = h("pre");
  const templateBox = h(
    "details",
    { class: "template" },
    h("summary", {}, "The task's template"),
    template,
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
    templateBox,
  );
  let canaries = [];
  let next = 0;

  function explain() {
    hint.textContent = asWhole.checked
      ? "Sent as it is, with the instruction and the options that the task was trained with."
      : "The task's template is put around it.";
  }

  /** A canary is a prompt of which the adapter's maker says what it is answered with. */
  function fillIn() {
    area.value = canaries[next % canaries.length].prompt;
    next += 1;
    asWhole.checked = true;
    explain();
    area.focus();
  }

  function adopt(detail, { isBase }) {
    const prompt = detail?.manifest?.prompt ?? null;
    canaries = detail?.manifest?.canaries ?? [];
    next = 0;
    example.hidden = canaries.length === 0;
    template.textContent = prompt?.template ?? "";
    templateBox.hidden = prompt === null;
    const hasTemplate = prompt !== null || (detail === null && !isBase);
    if (!hasTemplate) asWhole.checked = true;
    else if (asText.disabled) asText.checked = true; // as it was before a task without a template
    asText.disabled = !hasTemplate;
    explain();
  }

  function setFault(message) {
    fault.hidden = message === null;
    fault.textContent = message ?? "";
    if (message === null) area.removeAttribute("aria-invalid");
    else area.setAttribute("aria-invalid", "true");
  }

  explain();
  return {
    element,
    adopt,
    setFault,
    value: () => area.value,
    form: () => (asWhole.checked ? "inputs" : "text"),
    focus: () => area.focus(),
  };
}
