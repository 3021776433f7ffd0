// The key with which the page asks: a small form. It stays in this tab until it is forgotten.

import { key } from "./api.js";
import { h } from "./dom.js";

/** {button, panel, demand(error)}: the button opens the panel; a refused request demands a key. */
export function keyEntry(context) {
  const field = h("input", {
    id: "key",
    class: "field",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
  });
  const why = h("p", { id: "key-why" });
  const forget = h("button", { type: "button", class: "button plain", onclick: drop }, "Forget");
  const form = h(
    "form",
    { class: "key-form", onsubmit: take },
    h("label", { for: "key" }, "Key"),
    field,
    h("button", { class: "button primary" }, "Use this key"),
    forget,
  );
  const panel = h("div", { class: "key-panel", id: "key-panel", hidden: true }, why, form);
  const button = h("button", {
    type: "button",
    class: "button plain",
    "aria-controls": "key-panel",
    onclick: () => (panel.hidden ? open(hint()) : close()),
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    close();
  });

  function open(text, isBad = false) {
    why.textContent = text;
    why.className = isBad ? "bad" : "muted";
    field.setAttribute("aria-describedby", "key-why");
    panel.hidden = false;
    label();
    field.focus();
  }

  function close() {
    const hadFocus = panel.contains(document.activeElement);
    panel.hidden = true;
    field.value = "";
    label();
    if (hadFocus) button.focus();
  }

  function take(event) {
    event.preventDefault();
    key.set(field.value.trim());
    close();
    context.refresh();
  }

  function drop() {
    key.set("");
    close();
    context.announce("The key is forgotten.");
    context.refresh();
  }

  function label() {
    button.textContent = key.get() ? "Key in use" : "Enter a key";
    button.setAttribute("aria-expanded", String(!panel.hidden));
    forget.hidden = !key.get();
  }

  label();
  return {
    button,
    panel,
    demand(error) {
      const isNew = panel.hidden || why.className !== "bad";
      if (!isNew) return;
      const text = key.get()
        ? `The server refused this key: ${error.message}.`
        : "This server shows itself to keys only. Enter one to look.";
      open(text, Boolean(key.get()));
      context.announce(text);
    },
  };
}

function hint() {
  return key.get()
    ? "This tab has a key. Enter another one, or let this one be forgotten."
    : "An API key may look and generate, an admin key may also change adapters.";
}
