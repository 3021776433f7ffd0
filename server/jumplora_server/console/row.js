// One task in the table: made once, then its texts are changed in place.

import { COLUMNS } from "./columns.js";
import { copyText } from "./copy.js";
import { h, setAttribute, setText } from "./dom.js";
import { bytes, digits, NONE, percent, rate, roughSeconds, whole, words } from "./format.js";
import { sparkline } from "./sparkline.js";
import { markOf } from "./staged.js";

export const STATES = {
  READY: { title: "Ready", tone: "good" },
  COLD: { title: "Cold", tone: "muted" },
  LOADING: { title: "Loading", tone: "accent" },
  DRAINING: { title: "Draining", tone: "warn" },
  FAILED: { title: "Failed", tone: "bad" },
};

/** {element, taskId, focus(), setReachable(isReachable), show(line, index, trendSeconds)} of a
 *  TaskLine. */
export function taskRow(taskId, context) {
  const cells = Object.fromEntries(
    COLUMNS.map(({ name, title }) => [
      name,
      h("td", { role: "cell", class: `c-${name}`, "data-label": title }),
    ]),
  );
  const shows = [
    nameCell(cells.task, taskId, context),
    stateCell(cells.state),
    numbers(cells),
    trends(cells),
  ];
  cells.actions.append(
    h(
      "button",
      {
        type: "button",
        class: "button small",
        "aria-label": `Try ${taskId}`,
        onclick: () => context.tryTask(taskId),
      },
      "Try",
    ),
  );
  const element = h("tr", { role: "row", "data-task": taskId }, Object.values(cells));
  const buttons = element.querySelectorAll("button");
  element.addEventListener("click", (event) => {
    const isElsewhere = event.target.closest("button") || !getSelection().isCollapsed;
    if (!isElsewhere) context.openTask(taskId);
  });
  return {
    element,
    taskId,
    focus: () => buttons[0].focus({ preventScroll: true }),
    setReachable(isReachable) {
      for (const button of buttons) button.tabIndex = isReachable ? 0 : -1;
    },
    show(line, index, trendSeconds) {
      setAttribute(element, "aria-rowindex", index + 2); // the header is the first
      for (const show of shows) show(line, trendSeconds);
    },
  };
}

function nameCell(cell, taskId, context) {
  let version = null;
  const copy = h("button", { type: "button", class: "version", onclick: copyVersion });
  const pinned = h("span", { class: "tag" }, "pinned");
  cell.append(
    h(
      "div",
      { class: "main" },
      h(
        "button",
        {
          type: "button",
          class: "task-link",
          title: taskId,
          "aria-haspopup": "dialog",
          onclick: () => context.openTask(taskId),
        },
        taskId,
      ),
    ),
    h("div", { class: "sub" }, copy, pinned),
  );
  async function copyVersion() {
    const copied = version; // another one may come while it is copied
    const isCopied = await copyText(copied);
    context.announce(isCopied ? `Copied version ${copied}` : "The browser did not let it copy.");
    if (!isCopied) return;
    copy.classList.add("copied");
    setTimeout(() => copy.classList.remove("copied"), 1200);
  }
  return (line) => {
    version = line.version ?? line.desired;
    setText(copy, digits(version) || "no version");
    copy.disabled = !version;
    setAttribute(copy, "title", version ? `Copy ${version}` : null);
    setAttribute(
      copy,
      "aria-label",
      version ? `Copy version ${digits(version)} of ${taskId}` : null,
    );
    pinned.hidden = !line.pinned;
  };
}

function stateCell(cell) {
  const state = h("span", { class: "state" });
  const staged = h("span", { hidden: true });
  const sub = h("div", { class: "sub" });
  cell.append(h("div", { class: "main" }, state, staged), sub);
  return (line) => {
    const { title, tone } = STATES[line.state] ?? { title: line.state, tone: "muted" };
    // Beside a mark there is no room for the word: the line below says what is wrong.
    const isMarked = line.degraded && line.state !== "FAILED" && !line.staged;
    setText(state, isMarked ? `${title}, degraded` : title);
    setAttribute(state, "class", `state ${line.degraded && tone === "good" ? "warn" : tone}`);
    staged.hidden = !line.staged;
    if (line.staged) {
      const mark = markOf(line.staged);
      setText(staged, mark.text);
      setAttribute(staged, "title", mark.text); // it may be cut
      setAttribute(staged, "class", `tag ${mark.tone}`);
    }
    setText(sub, line.degraded ?? (line.in_flight ? `${line.in_flight} in flight` : ""));
    setAttribute(sub, "class", line.degraded ? "sub warn" : "sub");
    setAttribute(sub, "title", line.degraded);
  };
}

function numbers(cells) {
  const pair = (cell) => {
    const main = h("div", { class: "main" });
    const sub = h("div", { class: "sub" });
    cell.append(main, sub);
    return (text, below) => {
      setText(main, text);
      setText(sub, below);
      setAttribute(sub, "title", below || null);
    };
  };
  const density = pair(cells.density);
  const accuracy = pair(cells.accuracy);
  const failed = h("span");
  const canaries = h("span");
  cells.failed.append(failed);
  cells.canaries.append(canaries);
  return (line) => {
    density(percent(line.density), line.kind ?? "");
    accuracy(percent(line.accuracy?.share), line.accuracy ? words(line.accuracy.score) : "");
    setText(cells.lineage, line.ancestors ? `${line.ancestors} before` : NONE);
    setText(cells.memory, line.memory ? bytes(line.memory) : NONE);
    setText(failed, whole(line.failed));
    setAttribute(failed, "class", line.failed ? "bad strong" : "muted");
    const { canaries: share, canaries_asked: asked } = line;
    setText(canaries, share === null ? NONE : `${Math.round(share * asked)} of ${asked}`);
    setAttribute(canaries, "title", share === null ? null : `${percent(share)} were right here`);
    setAttribute(canaries, "class", canaryTone(line));
  };
}

/** The floor below which a version is refused is not known here, only that one was refused. */
function canaryTone({ canaries: share, degraded }) {
  if (share === 0 || /\bcanaries\b/.test(degraded ?? "")) return "bad strong";
  if (share === null) return "muted";
  return share < 1 ? "warn strong" : "good";
}

function trends(cells) {
  const requests = sparkline("series-1");
  const p95 = sparkline("series-2");
  cells.requests.append(requests.element);
  cells.p95.append(p95.element);
  return (line, trendSeconds) => {
    // Beside the curve stands the number of all its time, by which the column is sorted.
    const seconds = line.requests_per_second.length * trendSeconds;
    requests.show(line.requests_per_second, rate(seconds ? line.requests / seconds : null));
    p95.show(line.p95_seconds, roughSeconds(line.p95));
  };
}
