// One question to one task, and its answer.
//
// A question is what was asked, all of it:
//   {way: "generate" | "choose", task: "name" or "name@version",
//    form: "text" | "inputs", content, parameters}

import { ask, Refused, stream } from "./api.js";

export const routeOf = (question) => (question.way === "choose" ? "/generate" : "/generate_stream");

export const bodyOf = ({ task, form, content, parameters }) => ({
  task_id: task,
  [form]: content,
  parameters,
});

/** The answer: {text, details, seconds}. `onToken` gets tokens as they come. Throws Refused. */
export async function answerTo(question, onToken, signal) {
  const began = performance.now();
  const last = await (question.way === "choose" ? chosen : generated)(question, onToken, signal);
  const seconds = (performance.now() - began) / 1000;
  return { text: last.generated_text, details: last.details, seconds };
}

const chosen = (question, _, signal) =>
  ask("POST", routeOf(question), { body: bodyOf(question), signal });

async function generated(question, onToken, signal) {
  let last = null;
  const onEvent = (event) => {
    if (event.token !== null) onToken(event.token);
    if (event.details !== null) last = event;
  };
  await stream(routeOf(question), bodyOf(question), onEvent, signal);
  if (last === null) {
    throw new Refused("The answer broke off before its end.", 0, "broken_off");
  }
  return last;
}
