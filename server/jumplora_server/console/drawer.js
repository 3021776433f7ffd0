// The drawer of one task: what it is, what may be changed of it. Its address is #task=NAME.

import { adapterPath, ask } from "./api.js";
import { canaryTable } from "./canaries.js";
import { load, openRemove, openRollBack, pin } from "./change.js";
import { h, setAttribute, setText } from "./dom.js";
import { counted, digits } from "./format.js";
import { densityBars, facts, lineageChips } from "./made.js";
import { openPublishOver } from "./publish.js";
import { STATES } from "./row.js";
import { versionList } from "./versions.js";

/** {show(overview), showFault(error)}. It is open while the page's address names a task. */
export function mountDrawer(dialog, context) {
  let taskId = null; // whose drawer is open
  let detail = null;
  let server = null; // of the last overview
  let names = new Map(); // version -> task, of those that other tasks have now
  let isAsking = false;
  const parts = drawerParts(context, () => dialog.close());
  dialog.append(parts.element);

  function follow() {
    const named = taskOf(location.hash);
    if (named === null || server === null) {
      if (dialog.open) dialog.close();
      return;
    }
    if (named === taskId && dialog.open) return;
    taskId = named;
    detail = null;
    parts.begin(taskId);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    parts.title.focus();
    update();
  }

  async function update() {
    if (isAsking) return;
    isAsking = true;
    const asked = taskId;
    try {
      const answer = await ask("GET", adapterPath(asked));
      if ((answer.manifest?.lineage ?? []).some((version) => !names.has(version))) await learnNames();
      if (asked === taskId) draw(answer);
    } catch (error) {
      if (asked === taskId) parts.showFault(error);
    } finally {
      isAsking = false;
    }
    if (asked !== taskId && taskId !== null) update();
  }

  async function learnNames() {
    if (names.size) return; // once for a page: what no task has is not asked for again
    const { adapters } = await ask("GET", "/v1/adapters");
    names = new Map(adapters.flatMap((each) => [each.desired, each.version].filter(Boolean).map((version) => [version, each.task_id])));
  }

  function draw(answer) {
    detail = answer;
    const hadFocus = dialog.contains(document.activeElement);
    parts.show(detail, server, (version) => names.get(version), update);
    // What had it may be made again: then it is not lost to the page behind.
    if (hadFocus && !dialog.contains(document.activeElement)) parts.title.focus();
  }

  window.addEventListener("hashchange", follow);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    if (server === null) return; // it opens again when the server answers
    const closed = taskId;
    taskId = null;
    if (taskOf(location.hash) !== null) history.replaceState(null, "", location.pathname + location.search);
    if (document.activeElement === document.body) context.focusTask(closed);
  });

  return {
    show(overview) {
      server = overview.server;
      if (taskId === null || !dialog.open) follow();
      else update();
    },
    showFault(error) {
      if (error.status === 401 && dialog.open) {
        server = null; // the form for the key lies behind
        dialog.close();
        taskId = null;
      } else if (dialog.open) parts.showFault(error);
    },
  };
}

function taskOf(hash) {
  const match = /^#task=(.+)$/.exec(hash);
  try {
    return match && decodeURIComponent(match[1]);
  } catch {
    return null; // half an escape
  }
}

function drawerParts(context, close) {
  const title = h("h2", { id: "drawer-title", tabindex: -1 });
  const state = h("span", { class: "state" });
  const trouble = h("p", { class: "note bad", role: "alert", hidden: true });
  const whyNot = h("p", { class: "note", id: "why-not", hidden: true });
  const failure = h("p", { class: "note warn", hidden: true });
  const actions = h("div", { class: "drawer-actions" });
  const places = Object.fromEntries(["facts", "versions", "canaries", "lineage", "density"].map((name) => [name, h("div")]));
  const section = (name, heading) => h("section", { "aria-label": heading, id: `drawer-${name}` }, h("h3", {}, heading), places[name]);
  const content = h(
    "div",
    { class: "drawer-content" },
    failure,
    actions,
    whyNot,
    section("facts", "Facts"),
    section("versions", "Versions"),
    section("canaries", "Canaries"),
    section("lineage", "Lineage"),
    section("density", "Density by module"),
  );
  const element = h(
    "div",
    { class: "drawer-box" },
    h(
      "header",
      {},
      h("div", {}, title, state),
      h("button", { type: "button", class: "button plain", "aria-label": "Close", onclick: close }, "✕"),
    ),
    trouble,
    content,
  );
  let shown = {};

  /** Makes a part again only where what it shows is another: a focus or a selection in it stays. */
  function place(host, name, inputs, make) {
    const text = JSON.stringify(inputs);
    if (shown[name] === text) return;
    shown[name] = text;
    host.replaceChildren(...[make()].flat());
  }

  async function act(button, change, said, update) {
    button.disabled = true;
    trouble.hidden = true;
    try {
      await change();
      context.announce(said);
    } catch (error) {
      setText(trouble, error.message);
      trouble.hidden = false;
    }
    button.disabled = false;
    update();
    context.refresh();
  }

  function buttonsOf(detail, mayChange, update) {
    const { task_id: taskId, pinned } = detail;
    const changing = (text, onclick, tone = "") =>
      h("button", { type: "button", class: `button ${tone}`, disabled: !mayChange, onclick }, text);
    const done = () => (update(), context.refresh());
    return [
      h("button", { type: "button", class: "button primary", onclick: () => (close(), context.tryTask(taskId)) }, "Try it"),
      changing("Load now", (event) => act(event.target, () => load(taskId), `${taskId} is loaded.`, update)),
      changing(pinned ? "Unpin" : "Pin", (event) =>
        act(event.target, () => pin(taskId, !pinned), `${taskId} is ${pinned ? "no longer pinned" : "pinned"}.`, update),
      ),
      changing("Publish a version…", () => openPublishOver(detail, context, done)),
      changing("Remove…", () => openRemove(taskId, detail.history.length, context, () => (close(), context.refresh())), "danger"),
    ];
  }

  return {
    element,
    title,
    begin(taskId) {
      shown = {};
      setText(title, taskId);
      setText(state, "Asking…");
      setAttribute(state, "class", "state muted");
      content.hidden = true;
      trouble.hidden = true;
    },
    showFault(error) {
      setText(trouble, error.message);
      trouble.hidden = false;
      if (content.hidden) setText(state, "");
    },
    show(detail, server, nameOf, update) {
      const mayChange = server.may_change;
      const { title: stateTitle, tone } = STATES[detail.state] ?? { title: detail.state, tone: "muted" };
      content.hidden = false;
      setText(state, detail.pinned ? `${stateTitle}, pinned` : stateTitle);
      setAttribute(state, "class", `state ${detail.degraded ? "warn" : tone}`);
      setText(failure, failureOf(detail));
      failure.hidden = !failure.textContent;
      setText(whyNot, mayChange ? "" : `Changes are off: ${server.why_not}.`);
      whyNot.hidden = mayChange;
      place(actions, "actions", [detail.pinned, detail.desired, detail.history, mayChange], () => buttonsOf(detail, mayChange, update));
      place(places.facts, "facts", { ...detail, canaries: 0, changes: 0 }, () => facts(detail));
      place(places.versions, "versions", [detail.history, detail.changes, detail.version, detail.desired, mayChange], () =>
        versionList(detail, {
          mayChange,
          onTry: (version) => (close(), context.tryTask(detail.task_id, version)),
          onRollBack: (version) =>
            openRollBack(detail.task_id, version, detail.version, context, () => (update(), context.refresh())),
        }),
      );
      place(places.canaries, "canaries", detail.canaries, () => canaryTable(detail.canaries ?? []));
      const lineage = detail.manifest?.lineage ?? [];
      place(places.lineage, "lineage", [lineage, lineage.map(nameOf)], () => lineageChips(detail, nameOf, context.openTask));
      place(places.density, "density", detail.manifest?.density, () => densityBars(detail.manifest?.density ?? {}));
    },
  };
}

function failureOf({ failure, degraded, version, desired }) {
  if (!failure) return degraded ? `What was published last, ${digits(desired)}, does not answer.` : "";
  const again = failure.retry_in === null ? "" : ` It is tried again in ${counted(Math.ceil(failure.retry_in), "second")}.`;
  const which = version && version !== desired ? ` Version ${digits(version)} answers.` : "";
  return `${failure.message}.${which}${again}`;
}
