// What an admin key may change of a task. Each asks the server; those that change what clients get
// want the task id typed first.

import { adapterPath, ask } from "./api.js";
import { h, setAttribute } from "./dom.js";
import { digits } from "./format.js";
import { openForm, typedConfirmation } from "./modal.js";

/**
 * A button of a change. Where it is not allowed, it stays in reach of the keyboard and of touch: it is
 * described by a note that says why (see `allow`), and a press calls `explain()` in place of
 * `onclick`.
 */
export function changeButton(text, attributes, { onclick, explain }) {
  const isAllowed = () => element.getAttribute("aria-disabled") === null;
  const press = (event) => (isAllowed() ? onclick(event) : explain());
  const element = h("button", { type: "button", ...attributes, onclick: press }, text);
  return element;
}

/** Whether a press of it makes the change. */
export function allow(button, mayChange, note) {
  setAttribute(button, "aria-disabled", mayChange ? null : "true");
  setAttribute(button, "aria-describedby", mayChange ? null : note.id);
}

export const load = (taskId) => change("POST", adapterPath(taskId, "load"));

export const pin = (taskId, isPinned) =>
  change("POST", adapterPath(taskId, "pin"), { pinned: isPinned ? "pinned" : "unpinned" });

async function change(method, path, body) {
  try {
    return await ask(method, path, { body });
  } catch (error) {
    throw unsure(error);
  }
}

/** Of a change without an answer it is not known whether it was made. */
export function unsure(error) {
  if (error.status === 0) error.message += " The change may be made all the same: look at the task.";
  return error;
}

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
      await change("POST", adapterPath(taskId, "rollback"), { version });
      context.announce(`${taskId} is rolled back to version ${digits(version)}.`);
      onDone();
    },
  });
}

/** What a change of the staged version comes to, in sentences whose versions are in code. */
const ENDS = {
  promote: {
    verb: "Promote",
    title: "Promote the staged version of",
    what: (staged, current) => [
      ...["Version ", staged, " becomes current and answers all new requests that name no version"],
      ...(current ? [", in place of ", current, ", which stays stored"] : []),
    ],
    done: "answers now",
  },
  unstage: {
    verb: "Take back",
    title: "Take back the staged version of",
    what: (staged, current) => [
      ...["Version ", staged, " gets no share of the requests any more, and stays stored"],
      ...(current ? [". Version ", current, " answers them all"] : []),
    ],
    done: "was taken back",
  },
};

/** Opens the form that makes the staged version current ("promote") or takes it back ("unstage"). */
export function openStageEnd(detail, how, context, onDone) {
  const { task_id: taskId, version: current, staged } = detail;
  const { verb, title, what, done } = ENDS[how];
  const confirmation = typedConfirmation(taskId);
  const code = (version) => h("code", { title: version }, digits(version));
  const sentences = what(code(staged.version), current && code(current));
  openForm({
    title: `${title} ${taskId}`,
    fields: [
      h("p", {}, sentences, ". Running requests end on the version they began with."),
      confirmation.element,
    ],
    verb,
    isDanger: how === "unstage",
    isComplete: confirmation.isRight,
    async run(say) {
      say("Changing the store…");
      await change("POST", adapterPath(taskId, how), { version: staged.version });
      context.announce(`Version ${digits(staged.version)} of ${taskId} ${done}.`);
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
      await change("DELETE", adapterPath(taskId));
      context.announce(`${taskId} is removed.`);
      onDone();
    },
  });
}
