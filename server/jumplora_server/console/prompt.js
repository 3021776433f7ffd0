// How a text becomes a prompt, by the rules of jumplora_adapters/prompt.py. Pure.

const FIELD = /\{(instruction|options|text)\}/;
const OPTIONS_BETWEEN = " | ";

/** What stands before, between and behind texts: the template with its instruction and options. */
export function frameOf({ template, instruction, options }) {
  const fields = { instruction, options: options.join(OPTIONS_BETWEEN) };
  const parts = [""];
  // Literal text and the name of a field by turns.
  template.split(FIELD).forEach((piece, place) => {
    if (place % 2 === 0) parts[parts.length - 1] += piece;
    else if (piece === "text") parts.push("");
    else parts[parts.length - 1] += fields[piece];
  });
  return parts;
}

/** The text of which `whole` is the prompt; null where it is none of this template. */
export function textIn(prompt, whole) {
  const frame = frameOf(prompt);
  const places = frame.length - 1;
  const around = frame.reduce((sum, part) => sum + part.length, 0);
  const length = (whole.length - around) / places;
  if (!(length >= 0 && Number.isInteger(length))) return null;
  const text = whole.slice(frame[0].length, frame[0].length + length);
  return frame.join(text) === whole ? text : null;
}
