// What was asked, as code that asks the same: for a shell, our client, and the openai package.
//
// Pure functions of a question (asking.js), the server's address, and whether it needs a key. The
// key itself is never copied: the code reads it from the environment.

import { bodyOf, routeOf } from "./asking.js";
import { json, python, pythonText, shellWord } from "./quoting.js";

export const SNIPPETS = { curl, Python: client, openai };

const KEY = "JUMPLORA_KEY";

export function curl(question, origin, needsKey) {
  const lines = [
    question.way === "choose" ? "curl" : "curl --no-buffer",
    shellWord(origin + routeOf(question)),
  ];
  if (needsKey) lines.push(`--header "authorization: Bearer $${KEY}"`);
  lines.push("--header 'content-type: application/json'");
  lines.push(`--data-raw ${shellWord(json(bodyOf(question)))}`);
  const [command, address, ...rest] = lines;
  return `${[`${command} ${address}`, ...rest].join(" \\\n  ")}\n`;
}

export function client(question, origin, needsKey) {
  const key = needsKey ? `, key=os.environ["${KEY}"]` : "";
  return (
    (needsKey ? "import os\n\n" : "") +
    "from jumplora_server.client import Client\n\n" +
    `with Client(${pythonText(origin)}${key}) as client:\n` +
    (question.way === "generate" ? generating : choosing)(question)
      .map((line) => `    ${line}\n`)
      .join("")
  );
}

const asked = ({ task, form, content }) => [pythonText(task), [form, content]];

function generating(question) {
  const { details, ...parameters } = question.parameters;
  const parts = [...asked(question), ["parameters", orNothing(parameters)]];
  return [
    `for piece in ${call("client.stream_text", parts, "    ")}:`,
    '    print(piece, end="", flush=True)',
    "print()",
  ];
}

function choosing(question) {
  const { choices, min_probability, min_mass, details, ...others } = question.parameters;
  if (orNothing(others)) {
    // What `choose` has no arguments for.
    const parts = [...asked(question), ["parameters", question.parameters]];
    return [
      `answer = ${call("client.generate", parts, "    ")}`,
      "print(answer.generated_text, answer.details.choices)",
    ];
  }
  const named = { options: choices === true ? undefined : choices, min_probability, min_mass };
  const parts = [...asked(question), ...Object.entries(named)];
  return [`choice = ${call("client.choose", parts, "    ")}`, "print(choice)"];
}

const orNothing = (fields) => (Object.keys(fields).length === 0 ? undefined : fields);

// Fields of OpenAI's own; the openai package wants all others in extra_body.
const OPENAI_NAMES = {
  max_new_tokens: "max_tokens",
  temperature: "temperature",
  top_p: "top_p",
  seed: "seed",
};

export function openai(question, origin, needsKey) {
  const { task, form, content } = question;
  const key = needsKey ? `os.environ["${KEY}"]` : '"none"';
  const head =
    "# pip install openai\n" +
    (needsKey ? "import os\n\n" : "") +
    "from openai import OpenAI\n\n" +
    `client = OpenAI(base_url=${pythonText(`${origin}/v1`)}, api_key=${key})\n`;
  const method = form === "text" ? "client.chat.completions.create" : "client.completions.create";
  const asked = form === "text" ? ["messages", [{ role: "user", content }]] : ["prompt", content];
  const [named, extra] = openaiParameters(question.parameters);
  const parts = [["model", task], asked, ...named];
  if (question.way === "generate") parts.push(["stream", true]);
  parts.push(["extra_body", orNothing(extra)]);
  const piece = form === "text" ? "chunk.choices[0].delta.content" : "chunk.choices[0].text";
  if (question.way === "generate") {
    return (
      `${head}for chunk in ${call(method, parts)}:\n` +
      `    print(${piece} or "", end="", flush=True)\n` +
      "print()\n"
    );
  }
  return `${head}answer = ${call(method, parts)}\nprint(answer.model_dump_json(indent=2))\n`;
}

function openaiParameters(parameters) {
  const named = [];
  const extra = {};
  for (const [name, value] of Object.entries(parameters)) {
    if (name === "details") continue; // ours alone: what is in an answer, not which answer it is
    if (name === "truncate") extra.truncate_prompt_tokens = value;
    else if (name === "choices") extra.structured_outputs = { choice: value };
    else if (name in OPENAI_NAMES) named.push([OPENAI_NAMES[name], value]);
    else extra[name] = value;
  }
  return [named, extra];
}

/** A call with an argument a line: source texts, or [name, value]; an undefined value is left out. */
function call(name, parts, indent = "") {
  const inner = `${indent}    `;
  const lines = parts
    .filter((part) => typeof part === "string" || part[1] !== undefined)
    .map((part) => (typeof part === "string" ? part : `${part[0]}=${python(part[1], inner)}`));
  return `${name}(\n${lines.map((line) => `${inner}${line},\n`).join("")}${indent})`;
}
