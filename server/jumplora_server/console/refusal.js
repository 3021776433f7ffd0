// A refusal, where the reader looks: what it is, what the server says, and what to do.

import { h } from "./dom.js";
import { labelled } from "./wishes.js";

const TITLES = {
  unreachable: "The server gives no answer",
  broken_off: "The answer broke off",
  foreign: "Another server answered",
  unauthorized: "A key is needed",
  forbidden: "This key may not ask that",
  base_not_allowed: "The bare backbone may not be asked here",
  unknown_task: "There is no such task",
  unknown_version: "There is no such version",
  input_too_long: "The text is too long",
  body_too_large: "The text is too long",
  queue_full: "The server has too much to do",
  task_quota: "This task has too much to do",
  key_quota: "This key has used its quota",
  draining: "The server is about to stop",
  timeout: "It took too long",
  adapter_unavailable: "The task's adapter does not load",
  validation: "The server does not take this",
  generation: "The server failed on this text",
};
const HINTS = {
  unauthorized: "Give one at the top of the page, then ask again.",
  unknown_task: "Choose a task from the list.",
  unknown_version: "Choose a version from the list.",
  forbidden: "Another key, given at the top of the page, may.",
  unreachable: "Is it running, and the network up? The text stays here.",
};

export const titleOf = ({ type }) => TITLES[type] ?? "The server refused";

/** Which part of the form a refusal is about: "task", "text", or null. */
export function aboutOf({ type }) {
  if (["unknown_task", "unknown_version", "adapter_unavailable"].includes(type)) return "task";
  return ["input_too_long", "body_too_large"].includes(type) ? "text" : null;
}

/** What to do, where the server's own sentence does not say it; undefined: nothing is known. */
export function hintOf({ message, type, retryAfter }) {
  if (retryAfter === null) return HINTS[type];
  return /\btry again in\b/i.test(message) ? undefined : `Try again in ${retryAfter} s.`;
}

export function refusalNote(error) {
  const { message, status, type, reason } = error;
  const isTitle = message.replace(/\.$/, "") === titleOf(error);
  const hint = hintOf(error);
  const codes = [status > 200 && `HTTP ${status}`, type, reason].filter(Boolean).join(" · ");
  return h(
    "div",
    { class: "note bad refusal", role: "alert" },
    h("p", {}, h("strong", {}, `⚠ ${titleOf(error)}`)),
    isTitle ? null : h("p", {}, labelled(message)),
    hint ? h("p", {}, hint) : null,
    h("p", { class: "muted codes" }, codes),
  );
}
