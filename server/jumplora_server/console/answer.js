// One answer: it comes in here token by token, or as a ranking, or as a refusal.

import { Refused } from "./api.js";
import { answerTo } from "./asking.js";
import { ranking } from "./choices.js";
import { copyBox } from "./copying.js";
import { h } from "./dom.js";
import { counted, percent } from "./format.js";
import { refusalNote } from "./refusal.js";
import { summary, timingFigure } from "./timing.js";
import { legend, tokenLine } from "./tokens.js";

/** `run(question, signal)` resolves to {question, text, details, tokens}, or to {error}; both of
 *  them are null where the reader stopped it. With `isFirst` it scrolls into view. */
export function answerPanel(context, name, { isFirst }) {
  const title = h("h3", {}, name);
  const tokens = tokenLine();
  const key = legend();
  const body = h("div", { class: "answer-body" });
  const copying = copyBox(context);
  const element = h(
    "section",
    { class: "answer", "aria-label": name },
    title,
    body,
    copying.element,
  );
  const shown = new Intl.Segmenter(); // a notice counts characters as people do

  function begin(question) {
    tokens.clear();
    tokens.mark(new Set());
    title.replaceChildren(question.task || "no task");
    element.setAttribute("aria-busy", "true");
    const waiting = h("p", { class: "muted waiting" }, "Waiting for the server…");
    if (question.way === "generate") body.replaceChildren(waiting, tokens.line);
    else body.replaceChildren(waiting);
    copying.show(question);
    if (isFirst) bringIntoView(element);
    return waiting;
  }

  function finish(question, answer) {
    const { details, seconds } = answer;
    const parts =
      question.way === "choose" ? ranking(question, details) : [tokens.line, key, tokens.table];
    body.replaceChildren(...parts, timingFigure(details, seconds));
    copying.show(repeatable(question, details));
    // It grew; a reader who went elsewhere stays there.
    if (isFirst && isInView(element)) bringIntoView(element);
    context.announce(spoken(question, answer, shown));
  }

  async function run(question, signal) {
    const waiting = begin(question);
    const onToken = (token) => {
      waiting.remove();
      tokens.add(token);
    };
    try {
      const answer = await answerTo(question, onToken, signal);
      finish(question, answer);
      return { question, ...answer, tokens: tokens.tokens(), error: null };
    } catch (error) {
      if (error.name === "AbortError") {
        const came = counted(tokens.tokens().length, "token");
        body.replaceChildren(tokens.line, h("p", { class: "note" }, `Stopped after ${came}.`));
        context.announce("Stopped.");
        return { details: null, error: null };
      }
      if (!(error instanceof Refused)) throw error;
      body.replaceChildren(
        ...(tokens.tokens().length > 0 ? [tokens.line] : []),
        refusalNote(error),
      );
      return { details: null, error };
    } finally {
      element.removeAttribute("aria-busy");
    }
  }

  function clear(text) {
    title.replaceChildren(name);
    body.replaceChildren(h("p", { class: "muted" }, text));
    copying.element.hidden = true;
  }

  return { element, run, clear, mark: tokens.mark };
}

/** What gets this answer again: with the seed by which it was drawn, where it was. */
const repeatable = (question, { seed }) =>
  (seed ?? null) === null
    ? question
    : { ...question, parameters: { ...question.parameters, seed } };

function isInView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

/** All of it where it fits; else its beginning. */
function bringIntoView(element) {
  const { top, bottom } = element.getBoundingClientRect();
  const covered = Number.parseFloat(getComputedStyle(element).scrollMarginTop);
  if (top >= covered && bottom <= innerHeight) return;
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({
    block: bottom - top <= innerHeight - covered ? "nearest" : "start",
    behavior: isStill ? "auto" : "smooth",
  });
}

const LONGEST = 200; // characters of an answer that are read out

function spoken({ way, task }, { text, details, seconds }, segmenter) {
  if (details.finish_reason === "abstained") return `${task} abstained.`;
  const characters = [...segmenter.segment(text)].slice(0, LONGEST + 1).map((part) => part.segment);
  const said = characters.length > LONGEST ? `${characters.slice(0, LONGEST).join("")}…` : text;
  if (way === "generate") return `${task} answered: ${said}. ${summary(details, seconds)}.`;
  return `${task} chose ${said}, ${percent(details.choices[0].probability)}.`;
}
