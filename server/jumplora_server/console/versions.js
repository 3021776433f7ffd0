// The versions of a task, newest first, each with what happened to it.

import { h, timeOf } from "./dom.js";
import { digits } from "./format.js";

const WORDS = {
  publish: "published",
  repoint: "current again",
  rollback: "rolled back to",
  remove: "removed",
};

/** Elements; `onRollBack(version)` and `onTry(version)` are what the buttons of a version do;
 *  `makeButton(text, attributes, onclick)` makes one of a change. */
export function versionList(detail, { makeButton, onRollBack, onTry }) {
  const changes = detail.changes ?? [];
  return h(
    "ol",
    { class: "versions", reversed: true },
    detail.history.toReversed().map((version) =>
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
            .map(({ event, at }, index) => [
              index ? ", " : "",
              `${WORDS[event] ?? event} `,
              timeOf(at),
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
    if (version === detail.desired) return null;
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

function marksOf(version, { version: answering, desired }) {
  if (version === answering) return h("span", { class: "tag good" }, "answers");
  return version === desired
    ? h("span", { class: "tag warn" }, "published last, does not answer")
    : null;
}
