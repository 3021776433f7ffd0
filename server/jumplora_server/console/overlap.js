// How much the supports of tasks overlap, beside what chance would give: a square of pairs.
//
// One table for all readers. Each cell says both numbers; arrow keys walk through it, and the line
// below says of which pair the cell is.

import { h, renew } from "./dom.js";
import { counted } from "./format.js";

const MOST_WITH_NUMBERS = 16; // tasks; larger squares show the sign alone

// A pair's level by its ratio, the first that fits; the sign tells them apart without colour.
const LEVELS = [
  { name: "far-above", from: 1.5, sign: "▲", words: "1.5 times chance and more" },
  { name: "above", from: 1.1, sign: "△", words: "1.1 to 1.5 times" },
  { name: "as-chance", from: 0.9, sign: "·", words: "0.9 to 1.1" },
  { name: "below", from: 0.67, sign: "▽", words: "0.67 to 0.9" },
  { name: "far-below", from: 0, sign: "▼", words: "under 0.67" },
];

export function mountOverlap(section, context) {
  const body = h(
    "div",
    { class: "overlap" },
    h("p", { class: "muted" }, "Shown once the server has answered."),
  );
  section.append(body);
  let shown = "";

  return function show({ overlap }) {
    const text = JSON.stringify(overlap);
    if (text === shown) return;
    shown = text;
    renew(body, overlap === null ? [absence()] : square(overlap, context));
  };
}

const absence = () =>
  h(
    "p",
    { class: "muted nothing" },
    "No two tasks have been compared. The server compares tasks whose adapters have a mask, the " +
      "first JUMPLORA_MAX_OVERLAP_TASKS of them, when it has nothing to load. Low-rank adapters " +
      "change every weight a little, so they have no support to compare.",
  );

function square({ tasks, jaccard, chance }, context) {
  const readout = h(
    "p",
    { class: "readout muted" },
    "Point at a pair, or walk there with the arrow keys.",
  );
  const isLarge = tasks.length > MOST_WITH_NUMBERS;
  const table = h(
    "table",
    { class: `square ${isLarge ? "large" : ""}`, role: "grid", "aria-labelledby": "overlap-title" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("td"),
        tasks.map((task) => h("th", { scope: "col", title: task }, h("span", {}, task))),
      ),
    ),
    h(
      "tbody",
      {},
      tasks.map((task, i) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, rowName(task, context)),
          tasks.map((other, j) => cell([task, other], i === j, jaccard[i][j], chance[i][j])),
        ),
      ),
    ),
  );
  const say = (event) => {
    const said = event.target.closest("td[data-said]");
    if (said) readout.textContent = said.dataset.said;
  };
  table.addEventListener("pointerover", say);
  table.addEventListener("focusin", say);
  walkByArrows(table);
  return [
    h(
      "p",
      { class: "muted" },
      `Shared weights of ${counted(tasks.length, "task")}: Jaccard index over what chance gives masks as dense as these.`,
    ),
    key(),
    h("div", { class: "scroll" }, table),
    readout,
  ];
}

const rowName = (task, context) =>
  h(
    "button",
    {
      type: "button",
      class: "link",
      title: task,
      "data-key": task,
      onclick: () => context.openTask(task),
    },
    task,
  );

function cell([task, other], isDiagonal, jaccard, chance) {
  const place = { "data-key": `${task} ${other}` };
  if (isDiagonal) return h("td", { class: "diagonal", "aria-label": "itself", ...place });
  if (jaccard === null || chance === null) {
    const said = `${task} and ${other}: not compared`;
    return h("td", { class: "unknown", "data-said": said, ...place }, "–");
  }
  const ratio = chance > 0 ? jaccard / chance : null;
  const level = LEVELS.find((one) => (ratio ?? (jaccard > 0 ? Infinity : 1)) >= one.from);
  const times = ratio === null ? "where chance has none" : `${ratio.toFixed(2)} times chance`;
  const numbers = `Jaccard ${jaccard.toFixed(3)}, by chance ${chance.toFixed(3)}: ${times}`;
  return h(
    "td",
    { class: level.name, "data-said": `${task} and ${other}: ${numbers}`, ...place },
    h("span", { class: "sign", "aria-hidden": "true" }, level.sign),
    h("span", { class: "ratio", "aria-hidden": "true" }, ratio === null ? "" : ratio.toFixed(2)),
    h("span", { class: "unseen" }, numbers),
  );
}

const key = () =>
  h(
    "p",
    { class: "square-key muted" },
    LEVELS.map((level) =>
      h(
        "span",
        {},
        h("span", { class: `swatch ${level.name}`, "aria-hidden": "true" }, level.sign),
        level.words,
      ),
    ),
  );

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** One stop of the Tab key for the whole table; arrows, Home and End move within it. */
function walkByArrows(table) {
  const rows = [...table.tBodies[0].rows].map((row) =>
    [...row.cells].map((one) => one.querySelector("button") ?? one),
  );
  let at = [0, 0];
  rows.flat().forEach((one) => one.setAttribute("tabindex", "-1"));
  rows[0][0].setAttribute("tabindex", "0");

  function move([row, column]) {
    rows[row]?.[column]?.focus();
  }

  // The stop is where the focus is, by whichever way it came there.
  table.addEventListener("focusin", ({ target }) => {
    const row = rows.findIndex((cells) => cells.includes(target));
    rows[at[0]][at[1]].setAttribute("tabindex", "-1");
    at = [row, rows[row].indexOf(target)];
    target.setAttribute("tabindex", "0");
  });

  table.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (step) move([at[0] + step[0], at[1] + step[1]]);
    else if (event.key === "Home") move([at[0], 0]);
    else if (event.key === "End") move([at[0], rows[0].length - 1]);
    else return;
    event.preventDefault();
  });
}
