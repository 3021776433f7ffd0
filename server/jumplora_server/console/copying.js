// "Copy as": what was asked as code, to look at and to copy.

import { key } from "./api.js";
import { copyText } from "./copy.js";
import { h } from "./dom.js";
import { SNIPPETS } from "./snippets.js";

/** `show(question)` sets what is copied. */
export function copyBox(context) {
  let question = null;
  let language = Object.keys(SNIPPETS)[0];
  const code = h("code");
  const source = h("pre", { tabindex: "0", role: "region", "aria-label": "Code" }, code);
  const buttons = Object.keys(SNIPPETS).map((name) =>
    h(
      "button",
      {
        type: "button",
        class: "button small",
        "aria-pressed": String(name === language),
        onclick: () => choose(name),
      },
      name,
    ),
  );
  const copied = h("span", { class: "good" });
  const copy = h("button", { type: "button", class: "button small", onclick: copyCode }, "Copy");
  const element = h(
    "details",
    { class: "copying", hidden: true },
    h("summary", {}, "Copy as curl, Python or openai"),
    h(
      "div",
      { class: "row" },
      h("div", { role: "group", "aria-label": "Copy as", class: "row" }, buttons),
      copy,
      copied,
    ),
    source,
  );

  function write() {
    copied.textContent = "";
    source.setAttribute("aria-label", `Code for ${language}`);
    code.textContent = SNIPPETS[language](question, location.origin, key.get() !== "");
  }

  function choose(name) {
    language = name;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.textContent === name));
    }
    write();
  }

  async function copyCode() {
    const isCopied = await copyText(code.textContent);
    if (!isCopied) getSelection().selectAllChildren(code);
    copied.textContent = isCopied ? "✓ copied" : "select the code and copy it";
    context.announce(isCopied ? "Copied." : "Not copied: select the code and copy it.");
  }

  function show(asked) {
    question = asked;
    element.hidden = false;
    write();
  }
  return { element, show };
}
