// What the drawer shows of a task, and the buttons of its changes.

import { canaryTable } from "./canaries.js";
import {
  allow,
  changeButton,
  load,
  openRemove,
  openRollBack,
  openStageEnd,
  pin,
} from "./change.js";
import { h, setAttribute, setText } from "./dom.js";
import { counted, digits } from "./format.js";
import { densityBars, facts, lineageChips } from "./made.js";
import { openPublishOver } from "./publish.js";
import { STATES } from "./row.js";
import { markOf, stagedPanel } from "./staged.js";
import { versionList } from "./versions.js";

const SECTIONS = {
  staged: "Staged version",
  facts: "Facts",
  versions: "Versions",
  canaries: "Canaries",
  lineage: "Lineage",
  density: "Density by module",
};

/** `close()` closes the drawer, `update()` asks for the task again. */
export class Sheet {
  #taskId = null; // whose sheet it is; null: the drawer is closed
  #made = {}; // by place: what it was made of
  #stagedPanel = null;

  constructor(context, { close, update }) {
    Object.assign(this, { context, close, update });
    this.title = h("h2", { id: "drawer-title", tabindex: -1 });
    this.state = h("span", { class: "state" });
    this.mark = h("span", { hidden: true });
    this.unknown = alertNote(); // why nothing newer is known of the task
    this.refused = alertNote(); // why a change was not made
    this.failure = h("p", { class: "note warn", hidden: true });
    this.whyNot = h("p", { class: "note", id: "why-not", hidden: true });
    this.actions = h("div", { class: "drawer-actions" });
    this.places = {};
    const sections = Object.entries(SECTIONS).map(([name, heading]) => {
      this.places[name] = h("div");
      const label = { "aria-label": heading, id: `drawer-${name}` };
      return h("section", label, h("h3", {}, heading), this.places[name]);
    });
    const parts = [this.failure, this.actions, this.whyNot, ...sections];
    this.content = h("div", { class: "drawer-content" }, parts);
    const closer = { type: "button", class: "button plain", "aria-label": "Close", onclick: close };
    const states = h("div", { class: "row" }, this.state, this.mark);
    const head = h("header", {}, h("div", {}, this.title, states), h("button", closer, "✕"));
    this.element = h("div", { class: "drawer-box" }, head, this.unknown, this.refused, this.content);
  }

  /** Another task, of which nothing is known yet. */
  begin(taskId) {
    this.#taskId = taskId;
    this.#made = {};
    setText(this.title, taskId);
    this.#setState("Asking…", "muted");
    this.content.hidden = this.mark.hidden = true;
    setNote(this.unknown, "");
    setNote(this.refused, "");
  }

  /** The drawer is closed: what a change comes to is not for the next task's sheet. */
  end() {
    this.#taskId = null;
  }

  showFault(error) {
    setNote(this.unknown, error.message);
    if (this.content.hidden) this.#setState("Not known", "muted");
  }

  /** `taskOf(version)` is the task that has that version now, or undefined. */
  show(detail, server, taskOf) {
    const { title, tone } = STATES[detail.state] ?? { title: detail.state, tone: "muted" };
    const { may_change: mayChange, why_not: whyNot } = server;
    this.content.hidden = false;
    setNote(this.unknown, "");
    this.#setState(detail.pinned ? `${title}, pinned` : title, detail.degraded ? "warn" : tone);
    this.#showStaged(detail, mayChange);
    setNote(this.failure, failureOf(detail));
    setNote(this.whyNot, mayChange ? "" : `Changes are off: ${whyNot}.`);
    this.#showParts(detail, mayChange, taskOf);
  }

  #showParts(detail, mayChange, taskOf) {
    const { history, changes, version, desired, pinned, canaries, manifest } = detail;
    const lineage = manifest?.lineage ?? [];
    const {
      facts: factsPlace,
      versions,
      canaries: canaryPlace,
      density,
      lineage: chips,
    } = this.places;
    this.#make(this.actions, [pinned, desired, history.length, mayChange], () =>
      this.#buttons(detail, mayChange),
    );
    const known = { ...detail, canaries: null, changes: null, staged: null, comparison: null };
    this.#make(factsPlace, known, () => facts(detail));
    const marks = [detail.aliases, detail.staged && markOf(detail.staged)];
    this.#make(versions, [history, changes, version, desired, mayChange, marks], () =>
      this.#versions(detail, mayChange),
    );
    this.#make(canaryPlace, canaries ?? [], canaryTable);
    this.#make(chips, [lineage, lineage.map(taskOf)], () =>
      lineageChips(detail, taskOf, this.context.openTask),
    );
    this.#make(density, manifest?.density ?? {}, densityBars);
  }

  /** Its figures change at each look: they are changed in place, so a focused button stays. */
  #showStaged(detail, mayChange) {
    const { staged, version } = detail;
    this.places.staged.parentNode.hidden = this.mark.hidden = !staged;
    if (staged) {
      const { text, tone } = markOf(staged);
      setText(this.mark, text);
      setAttribute(this.mark, "class", `tag ${tone}`);
    }
    this.#make(this.places.staged, [staged?.version, version, mayChange], () => {
      this.#stagedPanel = staged ? stagedPanel(detail, this.#stageButtons(detail, mayChange)) : null;
      return this.#stagedPanel?.element ?? [];
    });
    this.#stagedPanel?.show(detail);
  }

  #stageButtons(detail, mayChange) {
    return [
      ["Promote…", "promote"],
      ["Take back…", "unstage"],
    ].map(([word, how]) => {
      const press = () => openStageEnd(detail, how, this.context, () => this.#changed());
      return this.#changeButton(word, { class: "button" }, press, mayChange);
    });
  }

  /** Makes a place again only where it shows something else: a focus or a selection in it stays. */
  #make(place, inputs, make) {
    const name = place.parentNode.id || "actions";
    const text = JSON.stringify(inputs);
    if (this.#made[name] === text) return;
    this.#made[name] = text;
    place.replaceChildren(...[make(inputs)].flat());
  }

  #setState(text, tone) {
    setText(this.state, text);
    setAttribute(this.state, "class", `state ${tone}`);
  }

  #buttons(detail, mayChange) {
    const { task_id: taskId, pinned, history } = detail;
    const { context, close } = this;
    const button = (text, tone, onclick, title = null) =>
      this.#changeButton(text, { class: `button ${tone}`, title }, onclick, mayChange);
    const tryIt = () => (close(), context.tryTask(taskId));
    const setPin = () => pin(taskId, !pinned);
    const pinSaid = `${taskId} is ${pinned ? "no longer pinned" : "pinned"}.`;
    const removed = () => {
      if (this.#taskId === taskId) close();
      context.refresh();
    };
    const act = (change, said) => (event) => this.#act(taskId, event.target, change, said);
    return [
      h("button", { type: "button", class: "button primary", onclick: tryIt }, "Try it"),
      button("Load now", "", act(() => load(taskId), `${taskId} is loaded.`)),
      pinned
        ? button("Unpin", "", act(setPin, pinSaid), "It may leave memory again.")
        : button("Pin", "", act(setPin, pinSaid), "It stays in memory until the server restarts."),
      button("Publish a version…", "", () =>
        openPublishOver(detail, context, () => this.#changed()),
      ),
      button("Remove…", "danger", () => openRemove(taskId, history.length, context, removed)),
    ];
  }

  #changeButton(text, attributes, onclick, mayChange) {
    const explain = () => {
      this.whyNot.scrollIntoView({ block: "center" });
      this.context.announce(this.whyNot.textContent);
    };
    const element = changeButton(text, attributes, { onclick, explain });
    allow(element, mayChange, this.whyNot);
    return element;
  }

  #versions(detail, mayChange) {
    const { task_id: taskId, version: answering } = detail;
    return versionList(detail, {
      makeButton: (text, attributes, onclick) =>
        this.#changeButton(text, attributes, onclick, mayChange),
      onTry: (version) => (this.close(), this.context.tryTask(taskId, version)),
      onRollBack: (version) =>
        openRollBack(taskId, version, answering, this.context, () => this.#changed()),
    });
  }

  #changed() {
    this.update();
    this.context.refresh();
  }

  async #act(taskId, button, change, said) {
    button.disabled = true;
    setNote(this.refused, "");
    try {
      await change();
      this.context.announce(said);
    } catch (error) {
      // The reader may look at another task by now.
      if (this.#taskId === taskId) setNote(this.refused, error.message);
      else this.context.announce(`${taskId}: ${error.message}`);
    }
    button.disabled = false;
    this.#changed();
  }
}

const alertNote = () => h("p", { class: "note bad", role: "alert", hidden: true });

function setNote(note, text) {
  setText(note, text);
  note.hidden = text === "";
}

function failureOf({ failure, degraded, version, desired }) {
  if (!failure)
    return degraded ? `What was published last, ${digits(desired)}, does not answer.` : "";
  const wait = failure.retry_in === null ? null : counted(Math.ceil(failure.retry_in), "second");
  const which = version && version !== desired ? ` Version ${digits(version)} answers.` : "";
  return `${failure.message}.${which}${wait ? ` It is tried again in ${wait}.` : ""}`;
}
