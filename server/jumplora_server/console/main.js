// Joins the parts: asks for the overview every two seconds and hands it to each of them.

import { look } from "./api.js";
import { mountDrawer } from "./drawer.js";
import { mountEvents } from "./events.js";
import { mountOverlap } from "./overlap.js";
import { poll } from "./poll.js";
import { openPublishNew } from "./publish.js";
import { mountRuns } from "./runs.js";
import { mountStrip } from "./strip.js";
import { mountTasks } from "./tasks.js";
import { mountTry } from "./try.js";

const byId = (id) => document.getElementById(id);

// Each mount(section, context) returns show(overview). `context` is what parts may ask of others:
//   context.openTask(taskId)            opens the task's drawer
//   context.tryTask(taskId, version?)   puts a task into "try it"; mountTry sets it
//   context.publishTask()               opens the form that publishes a new task
//   context.focusTask(taskId)           puts the focus on a task in the table
//   context.announce(text)              says something to screen readers
//   context.refresh()                   asks for the overview now
const context = {
  openTask(taskId) {
    location.hash = `task=${encodeURIComponent(taskId)}`;
  },
  tryTask() {},
  publishTask: () => openPublishNew(context),
  focusTask: (taskId) => tasks.focusTask(taskId),
  announce(text) {
    byId("said").textContent = text;
  },
  refresh: () => overviews.now(),
};

const strip = mountStrip(byId("strip"), context);
const tasks = mountTasks(byId("tasks"), context);
const drawer = mountDrawer(byId("drawer"), context);
const parts = [
  strip.show,
  tasks.show,
  mountTry(byId("try"), context),
  mountOverlap(byId("overlap"), context),
  mountRuns(byId("runs"), context),
  mountEvents(byId("events"), context),
  drawer.show,
  showLinks,
];

const overviews = poll(() => look(`/v1/overview?${tasks.query()}`), {
  onAnswer(overview) {
    document.body.classList.remove("stale", "unknown");
    for (const show of parts) showOne(show, overview);
  },
  onFault(error, wait) {
    document.body.classList.add("stale");
    drawer.showFault(error);
    tasks.showFault(error);
    return strip.showFault(error, wait);
  },
});
overviews.now();

/** A link sends no key. */
function showLinks({ server }) {
  byId("metrics").hidden = server.keys.includes("api");
}

// A part that fails is a fault of the page, and must not keep the others from being shown.
function showOne(show, overview) {
  try {
    show(overview);
  } catch (error) {
    reportError(error);
  }
}
