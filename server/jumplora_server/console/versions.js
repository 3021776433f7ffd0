// The versions of a task, newest first, each with what happened to it.

import { h, timeOf } from "./dom.js";
import { digits } from "./format.js";
import { markOf } from "./staged.js";

const WORDS = {
  publish: "published",
  repoint: "current again",
  rollback: "rolled back to",
  remove: "removed",
  stage: "staged",
  promote: "promoted",
  unstage: "taken back",
  alias: "named",
  unalias: "no longer named",
};

/** The versions of a task in the order in which they are listed: the staged one, which is the news,
 *  and then those that were current, the last one first. */
export function inOrder({ history, staged }) {
  const [news, others] = [[], []];
  for (const each of history.toReversed()) (each === staged?.version ? news : others).push(each);
  return [...news, ...others];
}

/** Elements; `onRollBack(version)` and `onTry(version)` are what the buttons of a version do;
 *  `makeButton(text, attributes, onclick)` makes one of a change. */
export function versionList(detail, { makeButton, onRollBack, onTry }) {
  const changes = detail.changes ?? [];
  return h(
    "ol",
    { class: "versions" },
    inOrder(detail).map((version) =>
      h(
        "li",
        { class: version === detail.version ? "answers" : null, "data-version": version },
        h("code", { title: version }, digits(version)),
        h("span", {}, marksOf(version, detail)),
        h(
          "p",
          { class: "muted" },
          changes
            .filter((change) => change.version === version)
            .map(({ event, at, note }, index) => [
              index ? ", " : "",
              `${WORDS[event] ?? event} `,
              timeOf(at),
              note ? ` (${note})` : "",
            ])
            .flat(),
        ),
        h(
          "span",
          { class: "version-buttons" },
          tryButton(version, detail, onTry),
          rollButton(version),
        ),
      ),
    ),
  );

  function rollButton(version) {
    if ([detail.desired, detail.staged?.version].includes(version)) return null;
    const label = { "aria-label": `Roll back to version ${digits(version)}` };
    return makeButton("Roll back", { class: "button small", ...label }, () => onRollBack(version));
  }
}

function tryButton(version, detail, onTry) {
  const label = { "aria-label": `Try version ${digits(version)}` };
  return h(
    "button",
    { type: "button", class: "button small", ...label, onclick: () => onTry(version) },
    "Try",
  );
}

function marksOf(version, { version: answering, desired, staged, aliases = {} }) {
  const names = Object.keys(aliases).filter((name) => aliases[name] === version);
  return [
    placeOf(version, answering, desired, staged),
    ...names.map((name) => h("span", { class: "tag" }, name)),
  ];
}

function placeOf(version, answering, desired, staged) {
  if (version === answering) return h("span", { class: "tag good" }, "answers");
  if (version === staged?.version) {
    const { text, tone } = markOf(staged);
    return h("span", { class: `tag ${tone}` }, text);
  }
  return version === desired
    ? h("span", { class: "tag warn" }, "published last, does not answer")
    : null;
}
