// Who is asked: a task, and a version of it where not the current one is meant.

import { adapterPath, look } from "./api.js";
import { combobox } from "./combobox.js";
import { h } from "./dom.js";
import { digits } from "./format.js";
import { titleOf } from "./refusal.js";
import { STATES } from "./row.js";
import { markOf } from "./staged.js";
import { inOrder } from "./versions.js";

const SHOWN = 20; // tasks that a search lists
const NAMING = 12; // digits that name a version in a request; the server takes 8 and more

/** `onChange(detail)` is called with what the server says of the task: null where it says nothing.
 *  `of` is what those hear who hear the name of the field of versions, after "Version". */
export function subject({ id, label, of = "", onChange }) {
  const tasks = combobox({ id, label, search: searchTasks, onChoose: (task) => set(task) });
  const versions = h("select", { id: `${id}-version`, class: "field", disabled: true });
  const fault = h("p", { class: "bad", id: `${id}-fault`, hidden: true });
  const element = h(
    "div",
    { class: "subject" },
    tasks.element,
    h(
      "div",
      { class: "which" },
      h("label", { for: versions.id }, "Version", h("span", { class: "unseen" }, of)),
      versions,
    ),
    fault,
  );
  let detail = null;
  let base = null; // what the bare backbone is called here
  let seen; // its versions when the server was asked; undefined: not listed
  let isUnsettled = false; // the server gave no answer about the task, and may give one soon
  let isAsking = false;
  let asked = new AbortController();

  async function set(task, version = "") {
    const [name, given = version] = task.split("@");
    tasks.set(name);
    setFault(null);
    detail = null;
    listVersions(given); // another task's versions must not be asked of this one
    await learn(name, given, undefined);
  }

  /** Ask the server about the task. A reader who chose a version keeps it. `listed` is the line
   *  that the overview has. */
  async function learn(task, version, listed) {
    asked.abort();
    asked = new AbortController();
    const { signal } = asked;
    isUnsettled = false;
    isAsking = true;
    try {
      detail =
        task === "" || task === base ? null : await look(adapterPath(task), signal);
    } catch (error) {
      if (signal.aborted) return;
      detail = null;
      isUnsettled = [0, 429].includes(error.status) || error.status >= 500;
      setFault(`${titleOf(error)}.`);
    }
    if (signal.aborted) return;
    isAsking = false;
    seen = versionsOf(detail ?? listed);
    listVersions(version);
    onChange(detail, { isBase: task !== "" && task === base });
  }

  function listVersions(chosen) {
    const history = detail ? inOrder(detail).map((version) => version.slice(0, NAMING)) : [];
    const isChosen = (version) => chosen !== "" && version.startsWith(chosen.slice(0, NAMING));
    if (chosen !== "" && !history.some(isChosen)) history.unshift(chosen);
    versions.replaceChildren(
      h("option", { value: "" }, unnamed(detail)),
      ...history.map((version) =>
        h("option", { value: version }, [digits(version), ...wordsOf(version, detail)].join(", ")),
      ),
    );
    versions.value = history.find(isChosen) ?? "";
    versions.disabled = history.length === 0;
  }

  function setFault(message) {
    fault.hidden = message === null;
    fault.textContent = message ?? "";
    if (message === null) {
      tasks.input.removeAttribute("aria-invalid");
      tasks.input.removeAttribute("aria-describedby");
    } else {
      tasks.input.setAttribute("aria-invalid", "true");
      tasks.input.setAttribute("aria-describedby", fault.id);
    }
  }

  /** Another version may answer by now, or the task may be known by now. */
  function notice(overview) {
    base = overview.server.base;
    const line = overview.tasks.find((task) => task.task_id === tasks.value());
    // A task that was refused is asked about again when it is listed with another version.
    const hasChanged = line !== undefined && versionsOf(line) !== seen;
    if (!isAsking && (hasChanged || isUnsettled)) {
      setFault(null);
      learn(tasks.value(), versions.value, line);
    }
  }

  /** What is worth a look beside this one: the staged version, the version published before it, or
   *  the last one where an older one is chosen; null where the task has only one. */
  function otherVersion() {
    const own = versions.value || (detail?.version ?? "");
    const others = detail ? inOrder(detail) : [];
    const other = others.find((one) => !one.startsWith(own.slice(0, NAMING)));
    return own === "" ? null : (other ?? null);
  }

  const name = () => tasks.value() + (versions.value ? `@${versions.value}` : "");
  return {
    element,
    set,
    setFault,
    notice,
    otherVersion,
    name,
    commit: tasks.commit,
    input: tasks.input,
    task: tasks.value,
    detail: () => detail,
  };
}

/** What answers where no version is chosen. */
export function unnamed(detail) {
  const { version, staged } = detail ?? {};
  if (!version) return "current";
  const isShared = staged && staged.is_open && !staged.failure && staged.share > 0;
  return isShared ? "current or staged" : `current (${digits(version)})`;
}

/** What a line or a detail says of a task's versions, to see whether it changed. */
function versionsOf(task) {
  if (!task) return undefined;
  const { version, staged } = task;
  return JSON.stringify([version, staged ? [staged.version, markOf(staged).text] : null]);
}

/** What is said of a version where one is chosen: its mark, and its names. */
export function wordsOf(version, detail) {
  const { version: current, desired, staged, aliases = {} } = detail ?? {};
  const isIt = (digest) => (digest ?? "").startsWith(version);
  const words = staged && isIt(staged.version) ? [markOf(staged).text] : [];
  if (isIt(current)) words.push("current");
  else if (isIt(desired)) words.push("published last");
  return [...words, ...Object.keys(aliases).filter((name) => isIt(aliases[name]))];
}

async function searchTasks(text, signal) {
  const query = new URLSearchParams({ search: text, limit: SHOWN });
  const overview = await look(`/v1/overview?${query}`, signal);
  const entries = overview.tasks.map((task) => ({
    value: task.task_id,
    note: `${STATES[task.state]?.title ?? task.state} ${digits(task.version)}`,
  }));
  const { base } = overview.server;
  if (base !== null && base.includes(text)) {
    entries.push({ value: base, note: "the bare backbone" });
  }
  return { entries, total: Math.max(overview.found, entries.length) };
}
