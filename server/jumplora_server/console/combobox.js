// A field that finds one of very many names: what is typed is searched for on the server.

import { h } from "./dom.js";

const PATIENCE = 150; // milliseconds after a keystroke, so that a fast typist asks once

/** `search(text, signal)` resolves to {entries: [{value, note}], total}; `onChoose(value)` is called
 *  with an entry, or with what was typed. */
export function combobox({ id, label, search, onChoose }) {
  const input = h("input", {
    id,
    class: "field",
    role: "combobox",
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": `${id}-list`,
    required: true,
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
  });
  const list = h("ul", { id: `${id}-list`, role: "listbox", "aria-label": `${label}: found` });
  const found = h("p", { class: "found muted", role: "status" });
  const popup = h("div", { class: "popup", hidden: true }, list, found);
  const element = h(
    "div",
    { class: "combobox" },
    h("label", { for: id }, label),
    h("div", { class: "anchor" }, input, popup),
  );
  let value = "";
  let active = -1;
  let timer = 0;
  let asked = new AbortController();

  const options = () => [...list.children];
  const isOpen = () => !popup.hidden;

  function setOpen(open) {
    popup.hidden = !open;
    input.setAttribute("aria-expanded", String(open));
    if (!open) activate(-1);
  }

  function activate(index) {
    active = index;
    for (const [i, option] of options().entries()) {
      option.setAttribute("aria-selected", String(i === index));
      if (i === index) option.scrollIntoView({ block: "nearest" });
    }
    if (index < 0) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", options()[index].id);
  }

  function choose(chosen) {
    stop();
    setOpen(false);
    input.value = chosen;
    if (chosen === value) return;
    value = chosen;
    onChoose(value);
  }

  function stop() {
    clearTimeout(timer);
    asked.abort();
  }

  async function look(text) {
    stop();
    asked = new AbortController();
    const { signal } = asked;
    try {
      const { entries, total } = await search(text, signal);
      if (signal.aborted) return;
      list.replaceChildren(...entries.map(entryElement));
      found.textContent = summary(entries.length, total);
      setOpen(document.activeElement === input);
    } catch (error) {
      if (signal.aborted) return;
      list.replaceChildren();
      found.textContent = error.message;
      setOpen(true);
    }
  }

  const entryElement = (entry, index) =>
    h(
      "li",
      {
        id: `${id}-${index}`,
        role: "option",
        "aria-selected": "false",
        onpointerdown: (event) => event.preventDefault(), // the field keeps the focus
        onclick: () => choose(entry.value),
      },
      h("span", {}, entry.value),
      h("span", { class: "muted" }, entry.note),
    );

  function onkeydown(event) {
    if (event.ctrlKey || event.metaKey || event.isComposing) return;
    const last = options().length - 1;
    const moves = {
      ArrowDown: () => (isOpen() ? activate(active >= last ? 0 : active + 1) : look("")),
      ArrowUp: () => isOpen() && activate(active <= 0 ? last : active - 1),
      Enter: () =>
        choose(active < 0 ? input.value.trim() : options()[active].firstChild.textContent),
      Escape: () => {
        stop();
        setOpen(false);
        input.value = value;
      },
    };
    if (!(event.key in moves)) return;
    if (event.key === "Escape" && !isOpen()) return;
    event.preventDefault();
    moves[event.key]();
  }

  input.addEventListener("keydown", onkeydown);
  input.addEventListener("input", () => {
    stop();
    timer = setTimeout(() => look(input.value.trim()), PATIENCE);
  });
  input.addEventListener("click", () => isOpen() || look(""));
  input.addEventListener("focus", () => input.select());
  input.addEventListener("blur", () => commit());

  const set = (chosen) => {
    value = chosen;
    input.value = chosen;
  };
  /** Takes what stands there, also where the field still has the focus. */
  const commit = () => choose(input.value.trim() || value);
  return { element, input, set, commit, value: () => value };
}

function summary(shown, total) {
  if (total === 0) return "No task has this in its name.";
  return shown < total
    ? `${shown} of ${total.toLocaleString("en")} tasks; type to find others`
    : "";
}
