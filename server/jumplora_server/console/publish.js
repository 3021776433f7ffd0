// Publishes a file: a new task, or a new version of one.

import { ask, Refused, upload } from "./api.js";
import { h } from "./dom.js";
import { bytes, digits, percent } from "./format.js";
import { openForm, typedConfirmation } from "./modal.js";

const TASK_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

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
    isComplete: () => TASK_ID.test(field.value) && file.chosen() !== null,
    async run(say) {
      const taskId = field.value;
      await refuseKnown(taskId);
      done = await send(taskId, file.chosen(), null, say);
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
    async run(say) {
      const done = await send(taskId, file.chosen(), desired, say);
      context.announce(outcomeOf(done));
      onDone();
      return resultOf(done);
    },
  });
}

// The server publishes over a task of that name as well, so it is asked first.
async function refuseKnown(taskId) {
  const query = new URLSearchParams({ search: taskId, limit: 100 });
  const { tasks } = await ask("GET", `/v1/overview?${query}`);
  if (tasks.some((line) => line.task_id === taskId)) {
    const what =
      `Task ${taskId} is there already. Give another id, or open the task and publish a ` +
      "version of it.";
    throw new Refused(what, 409);
  }
}

function send(taskId, file, replaced, say) {
  const onProgress = (share) =>
    say(
      share < 1
        ? `Sent ${percent(share, 0)} of ${bytes(file.size)}`
        : "Sent. The server checks and loads it…",
    );
  say(`Sending ${bytes(file.size)}…`);
  return upload(taskId, file, { replaced, onProgress });
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
