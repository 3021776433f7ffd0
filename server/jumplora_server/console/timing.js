// Where the time of an answer went, as one bar, and what else is known of it.

import { h } from "./dom.js";
import { counted, digits, seconds as time } from "./format.js";

const PARTS = [
  ["queue", "queue_seconds", "waiting for a place and for the adapter"],
  ["encode", "encode_seconds", "reading the prompt"],
  ["decode", "decode_seconds", "writing the answer"],
];

/** `seconds` are what passed here, on this side of the network. */
export function timingFigure(details, seconds) {
  return h("div", { class: "timing" }, ...bar(details.timing, seconds), facts(details, seconds));
}

function bar(timing, seconds) {
  if (!timing) return [];
  const known = PARTS.map(([name, field, words]) => ({ name, words, seconds: timing[field] ?? 0 }));
  const rest = Math.max(0, seconds - known.reduce((sum, part) => sum + part.seconds, 0));
  const parts = [
    ...known,
    { name: "other", words: "network, this page, and the rest of the server", seconds: rest },
  ];
  const whole = parts.reduce((sum, part) => sum + part.seconds, 0);
  const said = parts.map((part) => `${part.name} ${time(part.seconds)}`).join(", ");
  const figure = h("div", {
    class: "stack",
    role: "img",
    "aria-label": `Where the time went: ${said}`,
  });
  for (const part of parts) {
    const piece = h("span", {
      class: `piece ${part.name}`,
      title: `${part.name} ${time(part.seconds)}: ${part.words}`,
    });
    piece.style.flexGrow = String((100 * part.seconds) / whole); // sums under 1 would leave a gap
    figure.append(piece);
  }
  const key = h(
    "ul",
    { class: "key" },
    ...parts.map((part) =>
      h(
        "li",
        { title: part.words },
        h("span", { class: `swatch ${part.name}` }),
        `${part.name} ${time(part.seconds)}`,
      ),
    ),
  );
  return [figure, key];
}

function facts(details, seconds) {
  const version = details.adapter_version;
  const rows = [
    ["Tokens", `${details.prompt_tokens} in, ${details.generated_tokens} out`],
    [
      "Answered by",
      version === null ? "the bare backbone" : h("code", { title: version }, digits(version)),
    ],
    ["Seen here", time(seconds)],
    ["Server", details.timing ? time(details.timing.total_seconds) : null],
    ["Seed", details.seed],
    ["Ended by", details.choices ? null : ENDS[details.finish_reason]],
  ];
  return h(
    "dl",
    { class: "answer-facts" },
    ...rows
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

const ENDS = {
  eos_token: "its end token",
  length: "the limit of new tokens",
  stop_sequence: "a stop text",
};

/** One sentence, for those who hear the page. */
export const summary = (details, seconds) =>
  `${counted(details.generated_tokens, "token")} in ${time(seconds)}`;
