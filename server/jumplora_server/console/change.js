// What an admin key may change of a task. Each asks the server; those that change what clients get
// want the task id typed first.

import { adapterPath, ask } from "./api.js";
import { h } from "./dom.js";
import { digits } from "./format.js";
import { openForm, typedConfirmation } from "./modal.js";

export const load = (taskId) => ask("POST", adapterPath(taskId, "load"));

export const pin = (taskId, isPinned) =>
  ask("POST", adapterPath(taskId, "pin"), { body: { pinned: isPinned ? "pinned" : "unpinned" } });

/** Opens the form that makes `version` answer again. */
export function openRollBack(taskId, version, current, context, onDone) {
  const confirmation = typedConfirmation(taskId);
  openForm({
    title: `Roll back ${taskId}`,
    fields: [
      h(
        "p",
        {},
        "New requests are answered by version ",
        h("code", {}, digits(version)),
        current ? [" instead of ", h("code", {}, digits(current))] : "",
        ". Running ones end on the version they began with.",
      ),
      confirmation.element,
    ],
    verb: "Roll back",
    isDanger: true,
    isComplete: confirmation.isRight,
    async run(say) {
      say("Loading that version…");
      await ask("POST", adapterPath(taskId, "rollback"), { body: { version } });
      context.announce(`${taskId} is rolled back to version ${digits(version)}.`);
      onDone();
    },
  });
}

/** Opens the form that removes a task. */
export function openRemove(taskId, count, context, onDone) {
  const confirmation = typedConfirmation(taskId);
  const what = count === 1 ? "its version" : `all its ${count} versions`;
  openForm({
    title: `Remove ${taskId}`,
    fields: [
      h(
        "p",
        {},
        `The task goes with ${what}. Requests for it are refused from then on, and it cannot ` +
          "be brought back from here.",
      ),
      confirmation.element,
    ],
    verb: "Remove",
    isDanger: true,
    isComplete: confirmation.isRight,
    async run(say) {
      say("Removing…");
      await ask("DELETE", adapterPath(taskId));
      context.announce(`${taskId} is removed.`);
      onDone();
    },
  });
}
