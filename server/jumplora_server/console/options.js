// The options of a choice, as chips: the task's own, and others that the reader adds.

import { h } from "./dom.js";

export function optionChips() {
  const chips = h("ul", { class: "chips" });
  const all = h(
    "button",
    { type: "button", class: "button small plain", onclick: () => setAll(true) },
    "All",
  );
  const none = h(
    "button",
    { type: "button", class: "button small plain", onclick: () => setAll(false) },
    "None",
  );
  const text = h("input", {
    id: "try-option",
    class: "field",
    "aria-label": "Another option",
    placeholder: "Another option",
    "aria-describedby": "try-option-fault",
  });
  const add = h("button", { type: "button", class: "button small", onclick: addTyped }, "Add");
  const hint = h("p", { class: "muted hint" });
  const fault = h("p", { id: "try-option-fault", class: "bad", hidden: true });
  const element = h(
    "fieldset",
    { class: "options" },
    h("legend", {}, "Options to choose from"),
    chips,
    h("div", { class: "row" }, all, none, text, add),
    hint,
    fault,
  );
  let own = [];
  let other = null; // {task, options} that is compared with, null: none
  let added = [];

  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // Enter adds; it does not ask
    addTyped();
  });

  const boxes = () => [...chips.querySelectorAll("input")];

  function chip(option, isAdded) {
    const box = h("input", { type: "checkbox", checked: true, onchange: explain });
    const item = h("li", {}, h("label", { class: "chip" }, box, h("span", {}, option)));
    box.dataset.option = option;
    if (isAdded) {
      const away = () => {
        added = added.filter((other) => other !== option);
        item.remove();
        explain();
        text.focus();
      };
      const label = `Remove the option ${option}`;
      item.append(
        h("button", { type: "button", class: "away", "aria-label": label, onclick: away }, "×"),
      );
    }
    return item;
  }

  function addTyped() {
    const option = text.value;
    if (option === "") return text.focus();
    text.value = "";
    const known = boxes().find((box) => box.dataset.option === option);
    if (known) known.checked = true;
    else {
      added.push(option);
      chips.append(chip(option, true));
    }
    explain();
  }

  function setAll(checked) {
    for (const box of boxes()) box.checked = checked;
    explain();
  }

  function setFault(message) {
    fault.textContent = message ?? "";
    fault.hidden = message === null;
    if (message !== null) text.focus();
  }

  function explain() {
    setFault(null);
    const chosen = read();
    all.disabled = none.disabled = boxes().length === 0;
    if (boxes().length === 0) hint.textContent = "This task brings no options: add some to choose.";
    else if (chosen === true)
      hint.textContent =
        "All of the task's own options." +
        (other === null || isSame(other.options, own)
          ? ""
          : ` ${other.task} answers with its own, which are others.`);
    else hint.textContent = `${chosen.length} of ${boxes().length} take part.`;
  }

  /** true: exactly the task's own; else a list. */
  function read() {
    const chosen = boxes()
      .filter((box) => box.checked)
      .map((box) => box.dataset.option);
    const isOwn =
      own.length > 0 && chosen.length === own.length && added.every((o) => !chosen.includes(o));
    return isOwn ? true : chosen;
  }

  /** What the task that is compared with has, {task, options}; null: there is none. */
  function setOther(compared) {
    other = compared;
    explain();
  }

  /** Those that the reader added stay. */
  function set(options) {
    if (isSame(own, options)) return;
    own = options;
    added = added.filter((option) => !own.includes(option));
    chips.replaceChildren(
      ...own.map((option) => chip(option, false)),
      ...added.map((option) => chip(option, true)),
    );
    explain();
  }

  explain();
  return { element, read, set, setOther, setFault };
}

const isSame = (options, others) =>
  options.length === others.length && options.every((option, i) => option === others[i]);
