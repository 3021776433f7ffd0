// Publishes a file: a new task, or a new version of one.

import { adapterPath, look, Refused, upload } from "./api.js";
import { unsure } from "./change.js";
import { canariesSaid } from "./canaries.js";
import { h } from "./dom.js";
import { bytes, digits, percent } from "./format.js";
import { openForm, typedConfirmation } from "./modal.js";

const TASK_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** The server's own rule. */
export const isTaskId = (text) => TASK_ID.test(text);

/** Opens the form for a task that is not there yet. */
export function openPublishNew(context) {
  const field = h("input", {
    id: "new-task",
    class: "field",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    maxlength: 64,
    "aria-describedby": "new-task-rule",
  });
  const rule = "1 to 64 letters, digits, “.”, “_” or “-”; the first one is a letter or a digit.";
  const file = fileField();
  let done = null;
  openForm({
    title: "Publish a task",
    fields: [
      h(
        "div",
        { class: "labelled" },
        h("label", { for: "new-task" }, "Task id"),
        field,
        h("p", { id: "new-task-rule", class: "muted" }, rule),
      ),
      file.element,
    ],
    verb: "Publish",
    isComplete: () => isTaskId(field.value) && file.chosen() !== null,
    async run(say, signal) {
      done = await sendNew(field.value, file.chosen(), say, signal);
      context.announce(outcomeOf(done));
      context.refresh();
      return resultOf(done);
    },
    onClose: () => done && context.openTask(done.task_id),
  });
}

/** Opens the form for another version of a task; refused if one was published in between. */
export function openPublishOver(detail, context, onDone) {
  const { task_id: taskId, desired } = detail;
  const confirmation = typedConfirmation(taskId);
  const file = fileField();
  openForm({
    title: `Publish a version of ${taskId}`,
    fields: [
      h(
        "p",
        {},
        "Once its checks pass, the file answers instead of version ",
        h("code", {}, digits(desired) || "–"),
        ". A file that is refused changes nothing.",
      ),
      file.element,
      confirmation.element,
    ],
    verb: "Publish",
    isDanger: true,
    isComplete: () => confirmation.isRight() && file.chosen() !== null,
    async run(say, signal) {
      const condition = desired ? { "if-match": `"${desired}"` } : {};
      const done = await send(taskId, file.chosen(), condition, say, signal);
      context.announce(outcomeOf(done));
      onDone();
      return resultOf(done);
    },
  });
}

/** Asks first, so that a large file is not sent in vain; the server has the last word. */
async function sendNew(taskId, file, say, signal) {
  if (await isThere(taskId, signal)) throw thereAlready(taskId);
  try {
    return await send(taskId, file, { "if-none-match": "*" }, say, signal);
  } catch (error) {
    throw error.status === 412 ? thereAlready(taskId) : error;
  }
}

async function isThere(taskId, signal) {
  try {
    await look(adapterPath(taskId), signal);
    return true;
  } catch (error) {
    if (error.status === 404) return false;
    throw error;
  }
}

function thereAlready(taskId) {
  const what =
    `Task ${taskId} is there already. Give another id, or open the task and publish a ` +
    "version of it.";
  return new Refused(what, 412);
}

async function send(taskId, file, condition, say, signal) {
  const onProgress = (share) => {
    if (share < 1) say(`Sent ${percent(share, 0)} of ${bytes(file.size)}`, true);
    else say("Sent. The server checks and loads it…");
  };
  say(`Sending ${bytes(file.size)}…`, true);
  try {
    return await upload(taskId, file, { condition, onProgress, signal });
  } catch (error) {
    throw unsure(error);
  }
}

function outcomeOf({ task_id: taskId, version, outcome }) {
  return {
    created: `${taskId}: version ${digits(version)} is published and answers.`,
    unchanged: `${taskId}: this file is the current version already. Nothing was changed.`,
    repointed: `${taskId}: version ${digits(version)} was known, and is current again.`,
  }[outcome];
}

function resultOf(done) {
  const warnings = done.made_from?.warnings ?? [];
  return h(
    "div",
    {},
    h("p", { class: "note good" }, outcomeOf(done)),
    h("p", {}, canariesSaid(done.canaries)),
    done.made_from
      ? h("p", { class: "muted" }, `Made of a PEFT folder (${done.made_from.peft_type}).`)
      : null,
    warnings.length
      ? h(
          "ul",
          { class: "note warn" },
          warnings.map((text) => h("li", {}, text)),
        )
      : null,
  );
}

function fileField() {
  const field = h("input", { id: "adapter-file", class: "field", type: "file" });
  const element = h(
    "div",
    { class: "labelled" },
    h("label", { for: "adapter-file" }, "File"),
    field,
    h(
      "p",
      { class: "muted" },
      "An adapter file (.safetensors), or a PEFT folder as .zip, .tar or .tar.gz.",
    ),
  );
  return { element, chosen: () => field.files[0] ?? null };
}
