// A ranking: each option's probability as a bar, and what share of all answers the options are.

import { h } from "./dom.js";
import { logarithm, percent, short } from "./format.js";

const MOST_BARS = 20; // those behind them open on demand

/** `question` is what was asked, `details` what came of it. */
export function ranking(question, details) {
  const { choices, mass } = details;
  const hasAbstained = details.finish_reason === "abstained";
  const floors = question.parameters;
  const bars = choices.map((option, index) =>
    bar(option, { isAnswer: index === 0 && !hasAbstained, floor: floors.min_probability }),
  );
  const rest = bars.splice(MOST_BARS);
  return [
    hasAbstained ? abstention(question, details) : null,
    h("ol", { class: "ranking", "aria-label": "Options, the likeliest first" }, bars),
    rest.length === 0
      ? null
      : h(
          "details",
          {},
          h("summary", {}, `${rest.length} less likely options`),
          h("ol", { class: "ranking" }, rest),
        ),
    h(
      "div",
      { class: "mass" },
      track("Mass", mass, { floor: floors.min_mass, kind: "mass" }),
      h(
        "p",
        { class: "muted" },
        "How likely the model's own answer is to be one of these options. It is small where likely options are left out, or are not the task's; a text of another kind often has a large mass all the same.",
      ),
    ),
    h(
      "p",
      { class: "muted" },
      calibration(details),
      " Generate's probabilities may differ: those are of all answers, and never calibrated.",
    ),
  ].filter((part) => part !== null);
}

function bar(option, { isAnswer, floor }) {
  const title =
    option.logprob === null
      ? "too unlikely to have been looked at"
      : `log-probability ${logarithm(option.logprob)} before calibration`;
  return h(
    "li",
    { class: isAnswer ? "chosen" : null, title },
    track(option.text, option.probability, { floor, kind: "option", isAnswer }),
  );
}

function track(label, share, { floor, kind, isAnswer = false }) {
  const fill = h("span", { class: `fill ${kind}` });
  fill.style.inlineSize = `${100 * share}%`;
  const rail = h("span", { class: "rail", "aria-hidden": "true" }, fill);
  if (floor !== undefined) {
    const line = h("span", { class: "floor" });
    line.style.insetInlineStart = `${100 * floor}%`;
    rail.append(line);
  }
  return h(
    "span",
    { class: "choice" },
    h(
      "span",
      { class: "choice-label" },
      isAnswer ? h("span", { class: "tick" }, "✓ ") : null,
      label,
    ),
    rail,
    h("span", { class: "choice-number" }, percent(share)),
  );
}

/** Why none of them is the answer. The floor may be the request's, or the adapter's own. */
function abstention({ parameters }, { choices, mass }) {
  const [best] = choices;
  const reasons = [];
  if (best.probability < parameters.min_probability) {
    reasons.push(
      `the likeliest option has ${percent(best.probability)}, under the ${percent(parameters.min_probability)} that were asked for`,
    );
  }
  if (mass < parameters.min_mass) {
    reasons.push(
      `the mass is ${percent(mass)}, under the ${percent(parameters.min_mass)} that were asked for`,
    );
  }
  const why =
    reasons.length === 0 ? "a threshold of the adapter was not reached" : reasons.join(", and ");
  return h(
    "p",
    { class: "note warn" },
    h("strong", {}, "Abstained: "),
    `no option is the answer, because ${why}.`,
  );
}

const calibration = ({ temperature, calibrated_by: by }) =>
  by === "manifest"
    ? `Calibrated: the adapter divides log-probabilities by ${short(temperature)}, so that 80 % should be right 8 times in 10.`
    : "Not calibrated: these are the model's own numbers, often surer than they are right.";
