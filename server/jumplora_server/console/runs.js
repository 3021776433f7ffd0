// Continual runs: what each task still knew after each of the next ones was learned.

import { h, renew } from "./dom.js";
import { percent, points } from "./format.js";

export function mountRuns(section, context) {
  const body = h(
    "div",
    { class: "runs" },
    h("p", { class: "muted" }, "Shown once the server has answered."),
  );
  section.append(body);
  let shown = "";

  return function show({ runs }) {
    const text = JSON.stringify(runs);
    if (text === shown) return;
    shown = text;
    const articles = runs.map((run, number) => article(run, number, context));
    renew(body, runs.length === 0 ? absence() : articles);
  };
}

const absence = () => [
  h(
    "p",
    { class: "muted nothing" },
    "No served task is part of a continual run. Train one, task after task, and publish it here:",
  ),
  h("pre", { tabindex: "0", role: "region", "aria-label": "Commands" }, h("code", {}, commands())),
];

const commands = () =>
  "jumplora continual run --backbone BACKBONE --data DATA --order a,b,c \\\n" +
  "  --method inclora --out RUN\n" +
  `jumplora continual publish RUN --server ${location.origin}`;

/** A manifest need not say all of it. */
const how = ({ method, gate, split }) =>
  [method, gate && `gate ${gate}`, `accuracy in percent${split && ` on ${split}`}`]
    .filter(Boolean)
    .join(", ");

function article(run, number, context) {
  const id = `run-${number}`;
  return h(
    "article",
    { class: "run", "aria-labelledby": id },
    h("h3", { id }, run.run || "Run without a name"),
    h("p", {}, transfer(run)),
    h("div", { class: "scroll" }, matrix(run, id, context)),
    h(
      "p",
      { class: "muted" },
      `Each row: after that task was learned. Framed: the task just learned. Numbers: ${how(run)}.`,
    ),
  );
}

/** Backward transfer as a sentence. */
export function transfer({ backward_transfer: change, tasks }) {
  if (tasks.length < 2) return "One task so far: nothing could be forgotten.";
  if (change === null) return "What earlier tasks lost is not known yet.";
  const size = points(Math.abs(change)).replace("+", "");
  if (Number(size) === 0) return "= Earlier tasks kept what they knew.";
  const verb = change < 0 ? "▼ Earlier tasks lost" : "▲ Earlier tasks gained";
  return `${verb} ${size} points on average, from when each was learned to the end.`;
}

function matrix({ tasks, accuracy }, id, context) {
  const name = (task) =>
    h(
      "button",
      {
        type: "button",
        class: "link",
        "data-key": `${id} ${task}`,
        onclick: () => context.openTask(task),
      },
      task,
    );
  return h(
    "table",
    { class: "matrix", "aria-labelledby": id },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "After"),
        tasks.map((task) => h("th", { scope: "col" }, task)),
        h("th", { scope: "col", class: "mean" }, "mean"),
      ),
    ),
    h(
      "tbody",
      {},
      tasks.map((task, i) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, name(task)),
          tasks.map((_, j) => cell(accuracy, i, j)),
          h("td", { class: "number mean" }, mean(accuracy[i].slice(0, i + 1))),
        ),
      ),
    ),
  );
}

function cell(accuracy, i, j) {
  const share = accuracy[i]?.[j] ?? null;
  if (j > i) return h("td", { class: "later", "aria-label": "not learned yet" });
  if (share === null) return h("td", { class: "number muted", "aria-label": "not known" }, "–");
  const learned = accuracy[j]?.[j] ?? null;
  const since =
    i > j && learned !== null ? `${points(share - learned)} points since it was learned` : null;
  const element = h(
    "td",
    { class: i === j ? "number learned" : "number", title: since },
    (100 * share).toFixed(1),
    i === j ? h("span", { class: "unseen" }, ", just learned") : null,
  );
  element.style.setProperty("--share", String(share));
  return element;
}

/** Of a row's known numbers; of none where one is missing. */
const mean = (shares) =>
  shares.some((share) => share === null)
    ? "–"
    : (100 * (shares.reduce((sum, share) => sum + share, 0) / shares.length)).toFixed(1);
