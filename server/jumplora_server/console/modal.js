// A small dialog with a form for a change. A refused change leaves the form as it is.

import { h } from "./dom.js";

let last = 0; // of the dialogs, for the ids of their titles

/**
 * Opens it. `fields` are elements; `isComplete()` says whether `run` may be called.
 * `run(say)` makes the change; `say(text)` shows how far it is. An element that it returns
 * takes the form's place; if it returns nothing, the dialog closes.
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
  last += 1;
  const id = `form-title-${last}`;
  const note = h("p", { class: "note bad", role: "alert", hidden: true });
  const progress = h("p", { class: "muted", role: "status" });
  const go = h(
    "button",
    { class: `button ${isDanger ? "danger" : "primary"}`, disabled: true },
    verb,
  );
  const leave = h(
    "button",
    { type: "button", class: "button", onclick: () => dialog.close() },
    "Cancel",
  );
  const form = h(
    "form",
    { class: "change-form", oninput: check, onsubmit: submit },
    fields,
    note,
    progress,
    h("div", { class: "form-buttons" }, leave, go),
  );
  const dialog = h(
    "dialog",
    { class: "form-dialog", "aria-labelledby": id },
    h("h2", { id }, title),
    form,
  );
  let isRunning = false;

  function check() {
    go.disabled = isRunning || !isComplete();
  }

  async function submit(event) {
    event.preventDefault();
    if (isRunning || !isComplete()) return;
    note.hidden = true;
    setRunning(true);
    try {
      const result = await run((text) => (progress.textContent = text));
      setRunning(false);
      if (result) end(result);
      else dialog.close();
    } catch (error) {
      setRunning(false);
      progress.textContent = "";
      note.textContent = error.message;
      note.hidden = false;
    }
  }

  function setRunning(isNow) {
    isRunning = isNow;
    leave.disabled = isNow;
    dialog.setAttribute("aria-busy", String(isNow));
    check();
  }

  function end(result) {
    const close = h(
      "button",
      { type: "button", class: "button primary", onclick: () => dialog.close() },
      "Close",
    );
    form.replaceWith(
      h("div", { class: "change-form" }, result, h("div", { class: "form-buttons" }, close)),
    );
    close.focus();
  }

  // A change that began is finished by the server: its end is to be seen.
  dialog.addEventListener("cancel", (event) => isRunning && event.preventDefault());
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose();
  });
  document.body.append(dialog);
  dialog.showModal();
  check();
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
