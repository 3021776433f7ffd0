// A small dialog with a form for a change. A refused change leaves the form as it is.

import { h } from "./dom.js";

let last = 0; // of the dialogs, for the ids of their titles

/**
 * Opens it. `fields` are elements; `isComplete()` says whether `run` may be called.
 * `run(say, signal)` makes the change; `say(text, mayStop)` shows how far it is, and whether
 * `signal` can still stop it. An element that it returns takes the form's place; if it returns
 * nothing, the dialog closes.
 */
export function openForm({
  title,
  fields,
  verb,
  isDanger = false,
  isComplete,
  run,
  onClose = () => {},
}) {
  const note = h("p", { class: "note bad", role: "alert", hidden: true });
  const progress = h("p", { class: "muted", role: "status" });
  const tone = isDanger ? "danger" : "primary";
  const go = h("button", { class: `button ${tone}`, disabled: true }, verb);
  const leave = button("Cancel", "", () => (running ? running.abort() : dialog.close()));
  const form = h(
    "form",
    { class: "change-form", oninput: check, onsubmit: submit },
    fields,
    note,
    progress,
    h("div", { class: "form-buttons" }, leave, go),
  );
  const dialog = formDialog(title, form);
  let running = null; // the AbortController of the change that is made now

  function check() {
    go.disabled = running !== null || !isComplete();
  }

  async function submit(event) {
    event.preventDefault();
    if (running || !isComplete()) return;
    note.hidden = true;
    setRunning(new AbortController());
    try {
      const result = await run(say, running.signal);
      if (result) end(result);
      else dialog.close();
    } catch (error) {
      refuse(error);
    } finally {
      setRunning(null);
    }
  }

  function say(text, mayStop = false) {
    progress.textContent = text;
    leave.disabled = !mayStop;
  }

  function refuse(error) {
    const isStopped = error.name === "AbortError";
    progress.textContent = isStopped ? "Stopped. Nothing was changed." : "";
    note.textContent = isStopped ? "" : error.message;
    note.hidden = isStopped;
  }

  function setRunning(controller) {
    running = controller;
    leave.disabled = false;
    dialog.setAttribute("aria-busy", String(controller !== null));
    check();
  }

  function end(result) {
    const close = button("Close", "primary", () => dialog.close());
    form.replaceWith(
      h("div", { class: "change-form" }, result, h("div", { class: "form-buttons" }, close)),
    );
    close.focus();
  }

  // What the server has in hand it finishes, and its end is to be seen.
  dialog.addEventListener("cancel", (event) => {
    if (!running) return;
    event.preventDefault();
    if (!leave.disabled) running.abort();
  });
  dialog.addEventListener("close", () => {
    running?.abort();
    dialog.remove();
    onClose();
    keepFocus();
  });
  document.body.append(dialog);
  dialog.showModal();
  check();
}

function formDialog(title, form) {
  last += 1;
  const id = `form-title-${last}`;
  const attributes = { class: "form-dialog", "aria-labelledby": id };
  return h("dialog", attributes, h("h2", { id }, title), form);
}

const button = (text, tone, onclick) =>
  h("button", { type: "button", class: `button ${tone}`, onclick }, text);

// The button that opened the form may have been made again, or gone with its task.
function keepFocus() {
  if (document.activeElement !== document.body) return;
  const place = document.querySelector("#drawer[open] #drawer-title");
  (place ?? document.getElementById("tasks")).focus({ preventScroll: true });
}

/** A field in which a task id has to be typed before something is changed that answers clients. */
export function typedConfirmation(taskId) {
  const field = h("input", {
    id: "typed-task",
    class: "field",
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
  });
  const label = h("label", { for: "typed-task" }, "Type ", h("code", {}, taskId), " to confirm");
  return {
    element: h("div", { class: "labelled" }, label, field),
    isRight: () => field.value === taskId,
  };
}
