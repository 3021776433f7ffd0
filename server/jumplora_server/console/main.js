// Joins the parts: asks for the overview every two seconds and hands it to each of them.

import { mountEvents } from "./events.js";
import { mountOverlap } from "./overlap.js";
import { mountRuns } from "./runs.js";
import { mountTry } from "./try.js";

// Each mount(section, context) returns show(overview). `context` is what parts may ask of others:
//   context.openTask(taskId)            opens the task's drawer
//   context.tryTask(taskId, version?)   puts a task into "try it"
//   context.announce(text)              says something to screen readers
