// "Try it": one text, asked of one task or of two side by side.

import { answerPanel } from "./answer.js";
import { compared } from "./compare.js";
import { h, setAttribute } from "./dom.js";
import { mayGenerate } from "./key.js";
import { optionChips } from "./options.js";
import { aboutOf, titleOf } from "./refusal.js";
import { subject } from "./subject.js";
import { textField } from "./text.js";
import { wishes } from "./wishes.js";

export function mountTry(section, context) {
  const text = textField();
  const options = optionChips();
  const more = wishes();
  const first = subject({ id: "try-task", label: "Task", onChange: adopt });
  const second = subject({
    id: "try-other",
    label: "Compare with",
    of: " to compare with",
    onChange: adoptOther,
  });
  const subjects = [first, second];
  const panels = ["Answer", "Second answer"].map((name, side) =>
    answerPanel(context, name, { isFirst: side === 0 }),
  );
  const verdict = h("div", { class: "verdict" });

  const generate = h("button", { type: "submit", class: "button primary" }, "Generate");
  const choose = h("button", { type: "submit", class: "button" }, "Choose");
  const stop = h(
    "button",
    { type: "button", class: "button", hidden: true, onclick: abort },
    "Stop",
  );
  const whyNot = h(
    "p",
    { class: "note", id: "why-not-generate", hidden: true },
    "This key may not generate: that takes one with the scope infer.",
  );
  const toggle = h(
    "button",
    {
      type: "button",
      class: "button",
      "aria-expanded": "false",
      "aria-controls": "try-second",
      onclick: () => setComparing(!isComparing()),
    },
    "Compare with…",
  );
  const other = h("div", { id: "try-second", hidden: true }, second.element);
  const form = h(
    "form",
    { class: "question", "aria-label": "What to ask" },
    first.element,
    other,
    text.element,
    options.element,
    more.element,
    h("div", { class: "row actions" }, generate, choose, stop, toggle),
    whyNot,
    h(
      "p",
      { class: "muted hint" },
      h("kbd", {}, "Ctrl"),
      " ",
      h("kbd", {}, "Enter"),
      " generates, with ",
      h("kbd", {}, "Shift"),
      " it chooses; ",
      h("kbd", {}, "Esc"),
      " stops.",
    ),
  );
  const answers = h(
    "div",
    { class: "try-answers" },
    h(
      "div",
      { class: "panels" },
      panels.map((panel) => panel.element),
    ),
    verdict,
  );
  section.append(h("div", { class: "try" }, form, answers));

  let running = null; // an AbortController for each panel that is asked now
  let hasTask = false;
  let taskIds = []; // those that the table shows, in its order

  const isComparing = () => !other.hidden;
  const subjectsAsked = () => (isComparing() ? subjects : [first]);

  function abort() {
    for (const controller of running) controller.abort();
  }

  function setComparing(isOn) {
    if (!isOn) running?.[1]?.abort(); // the first answer still comes
    other.hidden = !isOn;
    second.input.disabled = !isOn; // so that the form does not require it
    panels[1].element.hidden = !isOn;
    answers.classList.toggle("two", isOn);
    toggle.setAttribute("aria-expanded", String(isOn));
    toggle.textContent = isOn ? "Do not compare" : "Compare with…";
    verdict.replaceChildren();
    panels[0].mark(new Set());
    if (isOn) {
      panels[1].clear("The second answer appears here.");
      if (second.task() === "" || second.name() === first.name()) proposeOther();
      second.input.focus();
    }
    adoptOther();
  }

  /** The task's other version; where it has none, the next task. */
  function proposeOther() {
    const version = first.otherVersion();
    const next = taskIds[(taskIds.indexOf(first.task()) + 1) % taskIds.length];
    if (version !== null) second.set(first.task(), version);
    else if (next !== undefined && next !== first.task()) second.set(next);
  }

  function adoptOther(detail = second.detail()) {
    const own = detail?.manifest?.prompt?.options;
    options.setOther(isComparing() && own ? { task: second.name(), options: own } : null);
  }

  function adopt(detail, { isBase }) {
    options.set(detail?.manifest?.prompt?.options ?? []);
    text.adopt(detail, { isBase });
  }

  function question(way, one) {
    const chosen = way === "choose" ? { choices: options.read() } : {};
    const parameters = { ...chosen, ...more.read(way), details: true };
    return { way, task: one.name(), form: text.form(), content: text.value(), parameters };
  }

  async function run(way) {
    if (running) return;
    if (!whyNot.hidden) {
      context.announce(whyNot.textContent);
      return;
    }
    for (const one of subjectsAsked()) {
      one.commit();
      one.setFault(null);
    }
    text.setFault(null);
    verdict.replaceChildren();
    if (way === "choose" && lacksOptions()) return;
    const asked = subjectsAsked();
    const questions = asked.map((one) => question(way, one));
    running = asked.map(() => new AbortController());
    setRunning(true);
    try {
      const outcomes = await Promise.all(
        questions.map((each, side) => panels[side].run(each, running[side].signal)),
      );
      if (outcomes.length === 2 && isComparing())
        verdict.replaceChildren(...compared(panels, outcomes));
      outcomes.forEach(({ error }, side) => error && blame(error, questions[side], asked[side]));
    } finally {
      abort(); // where one panel failed on the page's own fault, the other is still asking
      running = null;
      setRunning(false);
    }
  }

  /** The reader has left none: said at once, without the server. */
  function lacksOptions() {
    const chosen = options.read();
    const lacks = chosen !== true && chosen.length === 0;
    options.setFault(lacks ? "Choose at least one option, or add one." : null);
    return lacks;
  }

  /** Marks the field that is at fault, if it still has what was asked. */
  function blame(error, { task, content }, one) {
    const about = aboutOf(error);
    more.openFor(error.message);
    if (about === "task" && one.name() === task) one.setFault(`${titleOf(error)}.`);
    if (about === "text" && text.value() === content) text.setFault(`${titleOf(error)}.`);
  }

  function setRunning(isOn) {
    if (!isOn && document.activeElement === stop) generate.focus();
    stop.hidden = !isOn;
    allowAsking();
  }

  /** Not by `disabled`: that would take the focus away from the button that was pressed. */
  function allowAsking() {
    const isOff = running !== null || !whyNot.hidden;
    for (const button of [generate, choose]) {
      button.setAttribute("aria-disabled", String(isOff));
      setAttribute(button, "aria-describedby", whyNot.hidden ? null : whyNot.id);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(event.submitter === choose ? "choose" : "generate");
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit(event.shiftKey ? choose : generate);
    } else if (event.key === "Escape" && running && !event.defaultPrevented) abort();
  });
  setComparing(false);
  panels[0].clear("The answer appears here, token by token.");

  /** For other parts of the page: put a task here. */
  context.tryTask = (task, version) => {
    hasTask = true;
    first.set(task, version);
    section.scrollIntoView();
    text.focus();
  };

  return function show(overview) {
    const { server, tasks } = overview;
    more.setMost(server.max_new_tokens);
    whyNot.hidden = mayGenerate(server);
    allowAsking();
    taskIds = tasks.map((task) => task.task_id);
    for (const one of subjects) one.notice(overview);
    if (!hasTask && tasks.length > 0) {
      hasTask = true;
      first.set(server.default_task ?? tasks[0].task_id);
    }
  };
}
