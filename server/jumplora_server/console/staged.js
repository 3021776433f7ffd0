// The version that gets a share of a task's requests beside the current one: how it is marked, how
// both stand, and the buttons that end it. What needs no page is tested in node.

import { h, setText } from "./dom.js";
import { counted, digits, duration, NONE, percent, seconds, whole } from "./format.js";

/** 0.1 -> "10 %", 0.125 -> "12.5 %". */
export const shareOf = (share) => `${Number((100 * share).toFixed(1))} %`;

/** {text, tone} of the mark of a staged version, which has a `failure`, is open, or is loaded now.
 *  Short, because it stands beside a state in the table. */
export function markOf({ share, is_open: isOpen, failure }) {
  if (failure) return { text: "staged, fails", tone: "bad" };
  if (!isOpen) return { text: "staged, loads", tone: "warn" };
  return { text: `staged ${shareOf(share)}`, tone: "warn" };
}

/** What is known of it, in sentences. */
export function standing({ staged, comparison }) {
  const { share, failure, is_open: isOpen, promote_after: after } = staged;
  if (failure) return `It gets no requests: ${failure.message}.`;
  const gets = share ? `${shareOf(share)} of the requests` : "only requests that name it";
  if (!isOpen) return `It is loaded and tried now; then it gets ${gets}.`;
  const sentences = [`It gets ${gets}.`, judgement(comparison)];
  if (after !== null) {
    const when = `${duration(after)} after it was staged`;
    sentences.push(`It is promoted by itself ${when}, if no fault is found.`);
  }
  return sentences.join(" ");
}

function judgement(comparison) {
  if (!comparison?.looks) return "Too few of its requests have ended to judge it.";
  return `It was judged ${counted(comparison.looks, "time")}, and no fault was found.`;
}

/** The cells of a line of the comparison: requests, failed, p95, canaries. */
export function figuresOf(figures, canaries) {
  const { requests = 0, failed = 0, p95_seconds: p95 = null } = figures ?? {};
  const share = failed ? ` (${percent(failed / requests)})` : "";
  return [whole(requests), `${whole(failed)}${share}`, seconds(p95), percent(canaries, 0)];
}

/** The share of the current version's canaries that were right here; null: not known. */
export function canariesOf({ canaries }) {
  const asked = (canaries ?? []).filter(({ is_right: isRight }) => isRight !== null);
  if (!asked.length) return null;
  return asked.filter(({ is_right: isRight }) => isRight).length / asked.length;
}

/** {element, show(detail)} of one staged version; `buttons` end it. */
export function stagedPanel({ version: current, staged }, buttons) {
  const said = h("p");
  const rows = [
    ["Staged", staged.version],
    ["Current", current],
  ].map(([word, version]) => {
    const cells = ["Requests", "Failed", "p95", "Canaries"].map(() => h("td", {}, NONE));
    const name = [`${word} `, h("code", { title: version }, digits(version))];
    return { cells, element: h("tr", {}, h("th", { scope: "row" }, name), cells) };
  });
  const heads = ["Version", "Requests", "Failed", "p95", "Canaries"];
  const table = h(
    "table",
    { class: "standing" },
    h("caption", {}, "Counted by this server since it was staged"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map((head) => h("th", { scope: "col" }, head)),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map(({ element }) => element),
    ),
  );
  return {
    element: h("div", { class: "staged" }, said, table, h("div", { class: "row" }, buttons)),
    show(detail) {
      const { comparison, staged: latest } = detail;
      setText(said, standing(detail));
      [
        figuresOf(comparison?.staged, latest.canary_accuracy),
        figuresOf(comparison?.current, canariesOf(detail)),
      ].forEach((texts, line) => {
        texts.forEach((text, cell) => setText(rows[line].cells[cell], text));
      });
    },
  };
}
