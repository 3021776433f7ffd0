// The strip: the server on one line, whether it answers, the key and the colours.

import { h, setAttribute, setText } from "./dom.js";
import { bytes, counted, duration, when, whole } from "./format.js";
import { keyEntry } from "./key.js";
import { meter } from "./meter.js";
import { setTheme, theme, THEMES } from "./theme.js";

/** {show(overview), showFault(error, waitMs)}: the latter's `false` asks for no more tries. */
export function mountStrip(header, context) {
  const key = keyEntry(context);
  const version = h("span", { class: "muted", id: "server-version" });
  const ready = h("span", { class: "state", id: "server-ready" }, "Asking…");
  const facts = serverFacts();
  const trouble = h("p", { id: "server-faults", class: "note bad", hidden: true });
  const banner = faultBanner(context);
  header.append(
    h(
      "div",
      { class: "strip" },
      h(
        "div",
        { class: "brand" },
        h("img", { src: "/console/icon.svg", alt: "", width: 20, height: 20 }),
        h("h1", {}, "JumpLoRA"),
        version,
      ),
      ready,
      facts.element,
      h("div", { class: "strip-controls" }, key.button, themeChoice()),
    ),
    key.panel,
    trouble,
    banner.element,
  );

  return {
    show({ server }) {
      banner.hide();
      key.show(server);
      setText(version, server.version);
      setText(ready, server.ready ? "Ready" : "Not ready");
      setAttribute(ready, "class", `state ${server.ready ? "good" : "bad"}`);
      const faults = Object.entries(server.faults);
      setText(trouble, faults.map(([check, text]) => `${check}: ${text}`).join(" · "));
      setAttribute(trouble, "class", `note ${server.ready ? "warn" : "bad"}`);
      trouble.hidden = faults.length === 0;
      facts.show(server);
    },
    showFault(error, wait) {
      trouble.hidden = true; // it is of a server that answered
      if (error.status === 401 || error.status === 403) {
        banner.hide();
        setText(ready, error.status === 401 ? "Needs a key" : "Needs another key");
        setAttribute(ready, "class", "state warn");
        key.demand(error);
        return false;
      }
      banner.show(error, wait);
      setText(ready, "No answer");
      setAttribute(ready, "class", "state bad");
      return true;
    },
  };
}

function serverFacts() {
  const rows = meter("Rows in use");
  const memory = meter("Memory of adapters");
  const plain = ["Backbone", "Dtype", "Kernels", "Device"].map((name) => [name, h("span")]);
  const waiting = h("span");
  const uptime = h("span");
  const items = [
    ...plain,
    ["Rows", rows.element],
    ["Waiting", waiting],
    ["Memory", memory.element],
    ["Up", uptime],
  ];
  return {
    element: h(
      "dl",
      { class: "strip-facts", id: "server-facts" },
      items.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
    show(server) {
      for (const [name, value] of plain) {
        const text = server[name.toLowerCase()];
        setText(value, text);
        setAttribute(value, "title", text);
      }
      rows.show(
        server.rows_in_use,
        server.rows_total,
        `${server.rows_in_use} / ${server.rows_total}`,
      );
      setText(waiting, whole(server.waiting));
      setAttribute(waiting, "class", server.waiting > 0 ? "warn" : null);
      const { memory_used: used, memory_budget: budget } = server;
      memory.show(used, budget, `${bytes(used)} / ${bytes(budget)}`);
      memory.element.title = `and ${bytes(server.backbone_memory)} for the backbone`;
      setText(uptime, duration(server.uptime_seconds));
    },
  };
}

function faultBanner(context) {
  const text = h("span");
  const element = h(
    "div",
    { class: "banner", id: "fault", role: "status", hidden: true },
    text,
    h(
      "button",
      { type: "button", class: "button small", onclick: () => context.refresh() },
      "Try now",
    ),
  );
  let since = null;
  return {
    element,
    show(error, wait) {
      since ??= new Date();
      const seconds = counted(Math.round(wait / 1000), "second");
      const what = error.status === 0 ? error.message : `The server refused: ${error.message}.`;
      setText(text, `${what} What you see is of ${when(since)} or before. Next try in ${seconds}.`);
      element.hidden = false;
    },
    hide() {
      if (!element.hidden) context.announce("The server answers again.");
      element.hidden = true;
      since = null;
    },
  };
}

function themeChoice() {
  const choice = h(
    "select",
    { id: "theme", class: "field", onchange: () => setTheme(choice.value) },
    THEMES.map((name) => h("option", { value: name, selected: name === theme() }, NAMES[name])),
  );
  return h("span", {}, h("label", { class: "unseen", for: "theme" }, "Colours"), choice);
}

const NAMES = { system: "As system", light: "Light", dark: "Dark" };
