// Asks the server that this page is from. The key stays in this tab (sessionStorage).

const KEY = "jumplora.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What the server said when it refused: `status` (0: no answer), `type`, and its sentence.
 *  `retryAfter` is in seconds, null where the server names none. */
export class Refused extends Error {
  constructor(message, status, type = "", reason = null, retryAfter = null) {
    super(message);
    this.status = status;
    this.type = type;
    this.reason = reason;
    this.retryAfter = retryAfter;
  }
}

/** The JSON of an answer. Throws Refused. */
export async function ask(method, path, { body, headers = {}, signal } = {}) {
  const response = await send(method, path, { body, headers, signal });
  return response.status === 204 ? null : await response.json();
}

/** Calls `onEvent` with each server-sent event of a generation, in order. Throws Refused. */
export async function stream(path, body, onEvent, signal) {
  const response = await send("POST", path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await read(reader);
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (!event.startsWith("data:")) continue;
      const data = JSON.parse(event.slice("data:".length));
      if (data.error) throw new Refused(data.error, 200, data.error_type, data.reason);
      onEvent(data);
    }
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The connection broke off before the answer's end.", 0, "broken_off");
  }
}

/** The path of an adapter, and of what is behind it: adapterPath("agnews", "rollback"). */
export function adapterPath(taskId, verb = "") {
  return `/v1/adapters/${encodeURIComponent(taskId)}${verb && `/${verb}`}`;
}

/**
 * Publishes a file; `onProgress(share)` is called while it is sent. `replaced` is the version that
 * the reader saw: another one is refused. Throws Refused. (fetch does not say how far it is.)
 */
export function upload(taskId, file, { replaced = null, onProgress = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", adapterPath(taskId));
    request.setRequestHeader("content-type", "application/octet-stream");
    if (key.get()) request.setRequestHeader("authorization", `Bearer ${key.get()}`);
    if (replaced) request.setRequestHeader("if-match", `"${replaced}"`);
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.onerror = () => reject(unreachable());
    request.onload = () => {
      const { status, responseText } = request;
      if (status < 300) resolve(JSON.parse(responseText));
      else reject(refused(responseText, status));
    };
    request.send(file);
  });
}

async function send(method, path, { body, headers = {}, signal }) {
  const sent = { ...headers };
  if (key.get()) sent.authorization = `Bearer ${key.get()}`;
  let content = body;
  if (body !== undefined && !(body instanceof Blob)) {
    sent["content-type"] = "application/json";
    content = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: content, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) {
    const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
    const retryAfter = Number.isNaN(seconds) ? null : seconds;
    throw refused(await response.text().catch(() => ""), response.status, retryAfter);
  }
  return response;
}

function unreachable() {
  return new Refused("The server gives no answer.", 0, "unreachable");
}

function refused(text, status, retryAfter = null) {
  try {
    const said = JSON.parse(text);
    return new Refused(String(said.error), status, said.error_type, said.reason, retryAfter);
  } catch {
    return new Refused(`HTTP ${status}`, status, "", null, retryAfter);
  }
}
