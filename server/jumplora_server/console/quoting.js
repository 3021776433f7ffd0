// Texts as source code of shells and of Python: what comes out of them is what went in.

// Characters that a terminal or an editor acts on, or that look like another or like nothing:
// controls, changes of direction, odd spaces, halves of surrogate pairs. Written as escapes.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

const units = (text) => [...Array(text.length).keys()].map((index) => text.charCodeAt(index));
const hex = (number, digits) => number.toString(16).padStart(digits, "0");

/** One word of sh, bash and zsh. Nothing is special between single quotes but their end. */
export const shellWord = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** JSON that looks the same in every terminal. */
export const json = (value, indent = 2) =>
  JSON.stringify(value, null, indent).replace(UNSEEN, (character) =>
    // What is left of C0 is the line ends that JSON.stringify made between values.
    character === "\n"
      ? character
      : units(character)
          .map((unit) => `\\u${hex(unit, 4)}`)
          .join(""),
  );

const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** A string of Python. */
export function pythonText(text) {
  const escaped = text.replace(/["\\]/g, (character) => `\\${character}`);
  return `"${escaped.replace(UNSEEN, (character) => SHORT[character] ?? pythonEscape(character))}"`;
}

function pythonEscape(character) {
  const code = character.codePointAt(0);
  return code > 0xffff ? `\\U${hex(code, 8)}` : `\\u${hex(code, 4)}`;
}

const WIDTH = 80;

/** Any value of JSON as Python; `indent` is that of the line on which it stands. */
export function python(value, indent = "") {
  const flat = onOneLine(value);
  if (typeof value !== "object" || value === null || flat.length + indent.length <= WIDTH) {
    return flat;
  }
  const inner = `${indent}    `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const parts = Array.isArray(value)
    ? value.map((item) => python(item, inner))
    : Object.entries(value).map(([name, item]) => `${pythonText(name)}: ${python(item, inner)}`);
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}

function onOneLine(value) {
  if (typeof value === "string") return pythonText(value);
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return String(value);
  if (Array.isArray(value)) return `[${value.map(onOneLine).join(", ")}]`;
  const entries = Object.entries(value);
  return `{${entries.map(([name, item]) => `${pythonText(name)}: ${onOneLine(item)}`).join(", ")}}`;
}
