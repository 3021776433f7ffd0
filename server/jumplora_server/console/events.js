// The last things that happened, newest first. A line that is there stays where it is: new ones
// come on top, and wait for a press of a button while the reader is in the list.

import { h, setText, timeOf } from "./dom.js";
import { counted } from "./format.js";

const KINDS = {
  loaded: ["✓", "loaded", "good"],
  failed: ["✕", "failed", "bad"],
  switched: ["⇄", "switched", "good"],
  rolled_back: ["↶", "rolled back", "warn"],
  evicted: ["⇣", "evicted", "muted"],
  removed: ["⌫", "removed", "warn"],
  pinned: ["⚲", "pinned", ""],
  unpinned: ["⚬", "unpinned", ""],
  staged: ["◔", "staged", "good"],
  unstaged: ["◌", "unstaged", "warn"],
  server: ["⚙", "server", ""],
};
const QUIET = 10_000; // milliseconds between two announcements

export function mountEvents(section, context) {
  const kinds = h(
    "select",
    { id: "events-kind", class: "field", onchange: filter },
    h("option", { value: "" }, "all"),
    ...Object.entries(KINDS).map(([kind, [, word]]) => h("option", { value: kind }, word)),
  );
  const list = h("ol", {
    class: "event-list",
    tabindex: "0",
    hidden: true,
    "aria-labelledby": "events-title",
  });
  const waiting = h("button", {
    type: "button",
    class: "button small",
    hidden: true,
    onclick: bringIn,
  });
  const empty = h("p", { class: "muted nothing" }, "Shown once the server has answered.");
  section.append(
    h("div", { class: "row" }, h("label", { for: kinds.id }, "Kind"), kinds, waiting),
    empty,
    list,
  );
  const lines = new Map(); // of what is in the list
  const announce = announcer(context);
  let newest = []; // the last answer's events with their keys, newest first
  let isFirst = true;

  const isRead = () => list.matches(":hover") || list.contains(document.activeElement);
  const missing = () => newest.filter(({ key }) => !lines.has(key));

  function bringIn() {
    const hadFocus = document.activeElement === waiting;
    for (const { key, event } of missing().toReversed()) {
      const line = lineOf(event, context);
      lines.set(key, line);
      list.prepend(line.element);
    }
    const kept = new Set(newest.map(({ key }) => key));
    for (const [key, line] of lines) {
      if (kept.has(key)) continue;
      line.element.remove();
      lines.delete(key);
    }
    waiting.hidden = true;
    filter();
    if (hadFocus) list.focus();
  }

  function filter() {
    let shown = 0;
    for (const { element, kind } of lines.values()) {
      element.hidden = kinds.value !== "" && kinds.value !== kind;
      if (!element.hidden) shown += 1;
    }
    empty.hidden = shown > 0;
    list.hidden = shown === 0;
    empty.textContent =
      lines.size === 0 ? "Nothing has happened yet." : "No event of this kind among the last ones.";
  }

  return function show({ events }) {
    newest = keyed(events);
    const added = missing();
    if (!isFirst) announce(added.map(({ event }) => event));
    if (isFirst || !isRead()) bringIn();
    else if (added.length > 0) {
      waiting.textContent = `Show ${counted(added.length, "new event")}`;
      waiting.hidden = false;
    }
    isFirst = false;
    for (const line of lines.values()) line.age();
  };
}

/** Equal events of one moment differ by their number. */
function keyed(events) {
  const seen = new Map();
  return events
    .toReversed()
    .map((event) => {
      const name = JSON.stringify([event.at, event.kind, event.task_id, event.version, event.text]);
      const number = seen.get(name) ?? 0;
      seen.set(name, number + 1);
      return { key: `${number}${name}`, event };
    })
    .reverse();
}

function lineOf(event, context) {
  const [icon, word, tone] = KINDS[event.kind] ?? ["•", event.kind, ""];
  const at = new Date(event.at);
  const age = h("span", { class: "muted" });
  const element = h(
    "li",
    {},
    h("span", { class: "at" }, timeOf(event.at), " ", age),
    h("span", { class: `kind ${tone}` }, h("span", { "aria-hidden": "true" }, `${icon} `), word),
    h(
      "span",
      { class: "whose" },
      event.task_id === null
        ? null
        : h(
            "button",
            { type: "button", class: "link", onclick: () => context.openTask(event.task_id) },
            event.task_id,
          ),
    ),
    h("span", { class: "what", title: event.version }, event.text),
  );
  const line = { element, kind: event.kind, age: () => setText(age, relative(at, new Date())) };
  line.age();
  return line;
}

const UNITS = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
];
const WORDS = new Intl.RelativeTimeFormat("en", { numeric: "always" });

/** "just now", "3 minutes ago", "2 days ago" */
export function relative(at, now) {
  const seconds = (now - at) / 1000;
  const unit = UNITS.find(([, size]) => seconds >= size);
  return unit === undefined ? "just now" : WORDS.format(-Math.floor(seconds / unit[1]), unit[0]);
}

/** Says new events, all that came within some seconds in one sentence. */
function announcer(context) {
  let unsaid = [];
  let timer = null;

  function say() {
    timer = null;
    if (unsaid.length === 0) return;
    const last = unsaid[0];
    const name = [last.task_id, (KINDS[last.kind] ?? ["", last.kind])[1]].filter(Boolean).join(" ");
    const text =
      unsaid.length === 1
        ? `${name}: ${last.text}`
        : `${unsaid.length} new events, the last: ${name}`;
    context.announce(text);
    unsaid = [];
    timer = setTimeout(say, QUIET);
  }

  return (events) => {
    unsaid = [...events, ...unsaid];
    if (timer === null) say();
  };
}
