// The drawer of one task: when it is open, and what it asks. Its address is #task=NAME.

import { adapterPath, look } from "./api.js";
import { isTaskId } from "./publish.js";
import { Sheet } from "./sheet.js";

const LEARNED_MS = 30_000; // the list of all tasks is asked for no more often

/** {show(overview), showFault(error)}. It is open while the page's address names a task. */
export function mountDrawer(dialog, context) {
  const drawer = new Drawer(dialog, context);
  return {
    show: (overview) => drawer.show(overview),
    showFault: (error) => drawer.showFault(error),
  };
}

class Drawer {
  #taskId = null; // whose drawer is open
  #server = null; // of the last overview
  #tasks = new Map(); // version -> the task that has it now
  #learned = -Infinity; // when they were asked for
  #isAsking = false;
  #isMissing = false; // the server does not know the task: it is not asked again and again

  constructor(dialog, context) {
    this.dialog = dialog;
    this.context = context;
    this.sheet = new Sheet(context, {
      close: () => dialog.close(),
      update: () => this.#update(),
    });
    dialog.append(this.sheet.element);
    window.addEventListener("hashchange", () => this.#follow());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => this.#closed());
  }

  show(overview) {
    this.#server = overview.server;
    if (!this.dialog.open) this.#follow();
    else if (!this.#isMissing) this.#update();
  }

  showFault(error) {
    if (!this.dialog.open) return;
    if (error.status === 401 || error.status === 403) {
      this.#server = null; // the form for the key lies behind; it opens again after an answer
      this.dialog.close();
    } else if (!this.#isMissing) {
      this.sheet.showFault(error);
    }
  }

  #follow() {
    const named = taskOf(location.hash);
    if (named === null || this.#server === null) {
      if (this.dialog.open) this.dialog.close();
      return;
    }
    if (named === this.#taskId && this.dialog.open) return;
    this.#taskId = named;
    this.#isMissing = false;
    this.sheet.begin(named);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.sheet.title.focus();
    this.#update();
  }

  #closed() {
    const taskId = this.#taskId;
    this.#taskId = null;
    this.sheet.end();
    if (this.#server === null) return;
    if (taskOf(location.hash) !== null) {
      history.replaceState(null, "", location.pathname + location.search);
    }
    // The browser gave the focus back, unless the page began with the drawer or the element is gone.
    const { activeElement, body } = document;
    if (activeElement === body || this.dialog.contains(activeElement)) {
      this.context.focusTask(taskId);
    }
  }

  async #update() {
    if (this.#isAsking || this.#taskId === null) return;
    this.#isAsking = true;
    const taskId = this.#taskId;
    try {
      const detail = await look(adapterPath(taskId));
      if (taskId === this.#taskId) this.#draw(detail);
      this.#learnTasks(detail.manifest?.lineage ?? []);
    } catch (error) {
      if (taskId === this.#taskId) this.#fail(error);
    } finally {
      this.#isAsking = false;
    }
    if (taskId !== this.#taskId) this.#update();
  }

  #fail(error) {
    this.#isMissing = error.status === 404;
    this.sheet.showFault(error);
  }

  /** Asks which tasks have these versions, where that is not known, and draws the sheet with them.
   *  Tasks are published at any time: a version without one is asked for now and then. */
  async #learnTasks(versions) {
    const isKnown = versions.every((version) => this.#tasks.has(version));
    if (isKnown || performance.now() - this.#learned < LEARNED_MS) return;
    this.#learned = performance.now();
    let adapters;
    try {
      ({ adapters } = await look("/v1/adapters"));
    } catch {
      return; // the sheet shows the versions without their tasks
    }
    this.#tasks.clear();
    for (const { task_id: taskId, version, desired } of adapters) {
      for (const each of [desired, version]) if (each) this.#tasks.set(each, taskId);
    }
    this.#update();
  }

  #draw(detail) {
    const hadFocus = this.dialog.contains(document.activeElement);
    this.sheet.show(detail, this.#server, (version) => this.#tasks.get(version));
    // What had it may be made again: then it is not lost to the page behind.
    if (hadFocus && !this.dialog.contains(document.activeElement)) this.sheet.title.focus();
  }
}

function taskOf(hash) {
  const match = /^#task=(.+)$/.exec(hash);
  try {
    const named = match && decodeURIComponent(match[1]);
    return named && isTaskId(named) ? named : null; // "." and ".." would be other paths
  } catch {
    return null; // half an escape
  }
}
