// The versions of a task, newest first, each with what happened to it.

import { h, timeOf } from "./dom.js";
import { digits } from "./format.js";

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

/** Elements; `onRollBack(version)`, `onTry(version)`, and of a staged one `onPromote(version)` and
 *  `onTakeBack(version)` are what the buttons of a version do; `makeButton(text, attributes, onclick)` makes one of a change. */
export function versionList(detail, { makeButton, onRollBack, onTry, onPromote, onTakeBack }) {
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
          ...(version === detail.staged?.version ? stageButtons(version) : [rollButton(version)]),
        ),
      ),
    ),
  );

  function stageButtons(version) {
    return [
      ["Promote", onPromote],
      ["Take back", onTakeBack],
    ].map(([word, act]) => {
      const label = { "aria-label": `${word} version ${digits(version)}` };
      return makeButton(word, { class: "button small", ...label }, () => act(version));
    });
  }

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
    const share = `${Number((100 * staged.share).toFixed(1))} %`;
    return staged.failure
      ? h("span", { class: "tag bad", title: staged.failure.message }, "staged, does not load")
      : h("span", { class: "tag warn" }, staged.is_open ? `staged, ${share}` : "staged, loading");
  }
  return version === desired
    ? h("span", { class: "tag warn" }, "published last, does not answer")
    : null;
}
