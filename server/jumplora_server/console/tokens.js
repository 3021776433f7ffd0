// Tokens as they come, each marked by how likely it was: by colour, by the line under it, and by
// its number in a table.

import { h } from "./dom.js";
import { logarithm, percent } from "./format.js";

// From this probability up; the last one has all that are below.
const LEVELS = [
  { name: "sure", from: 0.9, words: "90 % and more" },
  { name: "likely", from: 0.5, words: "50 to 90 %" },
  { name: "unsure", from: 0.1, words: "10 to 50 %" },
  { name: "unlikely", from: 0.01, words: "1 to 10 %" },
  { name: "rare", from: 0, words: "under 1 %" },
];

export const levelOf = (logprob) => LEVELS.find((level) => Math.exp(logprob) >= level.from).name;

/** What is seen of a token's text: line ends, the end itself, and halves of characters too. */
export function seenText({ text, special }) {
  if (special) return "end";
  if (text === "") return "·";
  return text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");
}

export function legend() {
  return h(
    "p",
    { class: "legend muted" },
    "How likely the model found each token: ",
    ...LEVELS.map((level) =>
      h("span", {}, h("span", { class: `token ${level.name}` }, "token"), ` ${level.words}`),
    ),
  );
}

const saying = ({ text, special, logprob }) =>
  `${special ? "end of the answer" : JSON.stringify(text)}: ` +
  (logprob === null
    ? "no log-probability"
    : `log-probability ${logarithm(logprob)}, ${percent(Math.exp(logprob))}`);

/** A line that grows: add(token), clear(), mark(indices) for those that differ from another answer. */
export function tokenLine() {
  const line = h("p", { class: "tokens" });
  const rows = h("tbody");
  const table = h(
    "details",
    { class: "token-table", hidden: true },
    h("summary", {}, "Tokens as a table"),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ...["Token", "Log-probability", "Probability"].map((name) =>
            h("th", { scope: "col" }, name),
          ),
        ),
      ),
      rows,
    ),
  );
  let tokens = [];

  function add(token) {
    tokens.push(token);
    const level = token.logprob === null ? "" : levelOf(token.logprob);
    line.append(
      h(
        "span",
        { class: `token ${level} ${token.special ? "end" : ""}`, title: saying(token) },
        seenText(token),
      ),
    );
    rows.append(row(token));
    table.hidden = false;
  }

  function clear() {
    tokens = [];
    line.replaceChildren();
    rows.replaceChildren();
    table.hidden = true;
  }

  function mark(indices) {
    for (const [index, span] of [...line.children].entries()) {
      span.classList.toggle("differs", indices.has(index));
    }
  }

  return { line, table, add, clear, mark, tokens: () => tokens };
}

function row(token) {
  const { logprob } = token;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, token.special ? "end of the answer" : JSON.stringify(token.text)),
    h("td", { class: "number" }, logprob === null ? "–" : logarithm(logprob)),
    h("td", { class: "number" }, logprob === null ? "–" : percent(Math.exp(logprob))),
  );
}
