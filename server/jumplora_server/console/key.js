// The key with which the page asks: a small form. It stays in this tab until it is forgotten.

import { key } from "./api.js";
import { h, setAttribute, setText } from "./dom.js";

// What the button says of the key, by what the server took it for, and a sentence more.
const TAKEN_FOR = {
  unknown: [
    "Key not known",
    "The server does not know this key, and answers as it does without one. Enter another one, " +
      "or forget it.",
  ],
  api: ["Reading key", ""],
  admin: ["Admin key", ""],
};
const MAY = {
  infer: "generate",
  read: "look",
  metrics: "read metrics",
  admin: "change adapters",
};

/** {button, panel, demand(error), show(server)}: the button opens the panel; a refused request
 *  demands a key. `server` is an overview's. */
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
    onclick: () => (panel.hidden ? open(hint(server)) : close()),
  });
  let server = null; // of the last overview

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
    change(field.value.trim());
  }

  function drop() {
    change("");
  }

  /** After another key nothing may be left in the page of what the one before it showed. */
  function change(given) {
    const isFirst = key.get() === "";
    key.set(given);
    close();
    if (isFirst) context.refresh();
    else location.reload();
  }

  function label() {
    const isNotKnown = key.get() !== "" && server?.key === "unknown";
    setText(button, labelOf(server));
    button.classList.toggle("warn", isNotKnown);
    setAttribute(button, "title", isNotKnown ? hint(server) : null);
    button.setAttribute("aria-expanded", String(!panel.hidden));
    forget.hidden = !key.get();
  }

  label();
  return {
    button,
    panel,
    show(latest) {
      const isNews = server?.key !== latest.key;
      server = latest;
      label();
      if (isNews && key.get() && latest.key !== "none") context.announce(hint(server));
    },
    demand(error) {
      const isNew = panel.hidden || why.className !== "bad";
      if (!isNew) return;
      const text = demandOf(error);
      open(text, Boolean(key.get()));
      context.announce(text);
    },
  };
}

/** Why the page wants another key than it has. */
export function demandOf({ status, message }, hasKey = key.get() !== "") {
  if (!hasKey) return "This server shows itself to keys only. Enter one to look.";
  if (status !== 403) return `The server refused this key: ${message}.`;
  return `This page looks at the server, which this key may not do: ${message}. Enter another key.`;
}

/** Whether a request with this key may generate, as far as an overview's `server` says. */
export function mayGenerate({ keys, key_scopes: scopes }) {
  return !keys.includes("api") || scopes.includes("infer");
}

/** Pure: `server` is null before the first answer. */
export function labelOf(server, hasKey = key.get() !== "") {
  if (!hasKey) return "Enter a key";
  return TAKEN_FOR[server?.key]?.[0] ?? "Key in use"; // an answer to the request before has none
}

/** What the key of this tab may do. Who may change adapters may look at them. */
function may({ key_id: id, key_scopes: scopes, key_tasks: tasks }) {
  const verbs = Object.keys(MAY)
    .filter((scope) => scopes.includes(scope) || (scope === "read" && scopes.includes("admin")))
    .map((scope) => MAY[scope]);
  const last = verbs.pop();
  const all = verbs.length ? `${verbs.join(", ")} and ${last}` : last;
  const where = tasks ? ` Its tasks are ${tasks.join(", ")}.` : "";
  return `This tab has the key ${id}, which may ${all}.${where}`;
}

export function hint(server, hasKey = key.get() !== "") {
  if (server?.keys.length === 0) {
    const what = "This server has no keys: each client may look and generate, and none may change";
    return `${what} adapters here. JUMPLORA_KEYS_FILE or JUMPLORA_ADMIN_KEYS gives it some.`;
  }
  if (hasKey) {
    const other = "This tab has a key. Enter another one, or let this one be forgotten.";
    return server?.key_id ? may(server) : (TAKEN_FOR[server?.key]?.[1] ?? other);
  }
  const kinds = server?.keys ?? ["api", "admin"];
  if (!kinds.includes("api")) {
    return "This server answers without a key; an admin key may also change adapters.";
  }
  return kinds.includes("admin")
    ? "A key with the scope read may look, one with infer generate, one with admin change adapters."
    : "A key with the scope read may look, one with infer generate; none may change adapters here.";
}
