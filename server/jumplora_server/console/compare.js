// What differs between two answers to one question, in a sentence, in the tokens, and in a table.

import { differingTokens, optionDifferences } from "./differences.js";
import { h } from "./dom.js";
import { counted, percent, points } from "./format.js";

const MOST_ROWS = 20;

/** Marks tokens in both panels, and returns elements that say the rest. */
export function compared(panels, outcomes) {
  const [first, second] = outcomes;
  if (!first.details || !second.details) return [];
  return first.question.way === "choose"
    ? comparedChoices(outcomes)
    : comparedTokens(panels, outcomes);
}

function comparedTokens(panels, outcomes) {
  const sides = differingTokens(...outcomes.map(({ tokens }) => tokens.map((token) => token.text)));
  panels.forEach((panel, side) => panel.mark(sides[side]));
  const [first, second] = outcomes;
  const isSame = first.text === second.text;
  const parts = outcomes.map(
    ({ question, tokens }, side) =>
      `${sides[side].size} of ${counted(tokens.length, "token")} of ${question.task}`,
  );
  const sentence = isSame
    ? "Both give the same answer."
    : `The answers differ. Framed: ${parts.join(" and ")}, which are not in the other answer.`;
  return [h("p", { class: "note" }, h("strong", {}, isSame ? "= " : "≠ "), sentence)];
}

function comparedChoices(outcomes) {
  const names = outcomes.map(({ question }) => question.task);
  const said = outcomes.map((outcome, side) => `${names[side]} ${verdict(outcome)}`).join(", ");
  const isSame = outcomes[0].text === outcomes[1].text;
  const rows = optionDifferences(...outcomes.map(({ details }) => details.choices));
  const mass = { text: "mass", first: outcomes[0].details.mass, second: outcomes[1].details.mass };
  return [
    h(
      "p",
      { class: "note" },
      h("strong", {}, isSame ? "= " : "≠ "),
      `${isSame ? "Both choose the same" : "They choose differently"}: ${said}.`,
    ),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "differences" },
        h(
          "caption",
          {},
          captionOf(rows),
        ),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ...["Option", ...names, "Points"].map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h("tbody", {}, ...rows.slice(0, MOST_ROWS).map(row), row(mass)),
      ),
    ),
    rows.length > MOST_ROWS
      ? h("p", { class: "muted" }, `${rows.length - MOST_ROWS} others are not shown.`)
      : null,
  ].filter((part) => part !== null);
}

/** Rows that both have stand first. */
function captionOf(rows) {
  const shared = rows.filter(isShared).length;
  const parts = ["Probabilities side by side"];
  if (shared > 0) parts.push(", the largest difference first");
  if (shared > 0 && shared < rows.length) parts.push(", then options that one of the two has");
  if (shared < rows.length) parts.push("; –: the task has no such option");
  return `${parts.join("")}.`;
}

const isShared = ({ first, second }) => first !== null && second !== null;

function row({ text, first, second }) {
  const cells = [first, second].map((share) => (share === null ? "–" : percent(share)));
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, text),
    ...cells.map((cell) => h("td", { class: "number" }, cell)),
    h(
      "td",
      { class: "number nowrap" },
      isShared({ first, second }) ? `${arrow(second - first)}${points(second - first)}` : "–",
    ),
  );
}

const arrow = (difference) => (Math.abs(difference) < 0.0005 ? "" : difference > 0 ? "▲ " : "▼ ");

function verdict({ text, details }) {
  if (details.finish_reason === "abstained") return "abstains";
  return `says ${text} (${percent(details.choices[0].probability)})`;
}
