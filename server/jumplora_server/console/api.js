// Asks the server that this page is from. The key stays in this tab (sessionStorage).

const KEY = "jumplora.key";
const LONGEST_LOOK_MS = 15_000;
const LONGEST_WORK_MS = 120_000; // of a change or a choice, and of an upload's silence

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

/** The JSON of an answer, which is waited for `limit` milliseconds at most. Throws Refused. */
export async function ask(method, path, { body, signal, limit = LONGEST_WORK_MS } = {}) {
  const timeout = AbortSignal.timeout(limit);
  const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
  try {
    const response = await send(method, path, { body, signal: either });
    if (response.status === 204) return null;
    return parsed(await response.text());
  } catch (error) {
    if (timeout.aborted && !signal?.aborted) throw silent(limit);
    if (error instanceof Refused || error.name === "AbortError") throw error;
    throw brokenOff();
  }
}

/** What GET answers. Throws Refused. */
export function look(path, signal) {
  return ask("GET", path, { signal, limit: LONGEST_LOOK_MS });
}

/** Calls `onEvent` with each server-sent event of a generation, in order. It has no limit here: the
 *  server has one, and the reader can stop it. Throws Refused. */
export async function stream(path, body, onEvent, signal) {
  const response = await send("POST", path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    let text = "";
    for (;;) {
      const { value, done } = await read(reader);
      if (done) return;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        if (!event.startsWith("data:")) continue;
        const data = parsed(event.slice("data:".length));
        if (data.error) throw new Refused(data.error, 200, data.error_type, data.reason);
        onEvent(data);
      }
    }
  } finally {
    // The server need not write what is not read; of a stream that broke this fails.
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw brokenOff();
  }
}

/** The path of an adapter, and of what is behind it: adapterPath("agnews", "rollback"). */
export function adapterPath(taskId, verb = "") {
  return `/v1/adapters/${encodeURIComponent(taskId)}${verb && `/${verb}`}`;
}

/**
 * Publishes a file; `onProgress(share)` is called while it is sent, and until all of it is sent
 * `signal` stops it. `condition` is a header, of what the reader saw: the server refuses the file
 * where something else is there by then. Throws Refused. (fetch does not say how far it is.)
 */
export function upload(taskId, file, { condition, onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let timer;
    const wait = () => {
      clearTimeout(timer);
      timer = setTimeout(() => end(reject, silent(LONGEST_WORK_MS)), LONGEST_WORK_MS);
    };
    const stop = () => end(reject, signal.reason);
    function end(settle, result) {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      request.abort();
      settle(result);
    }
    request.open("PUT", adapterPath(taskId));
    request.setRequestHeader("content-type", "application/octet-stream");
    if (key.get()) request.setRequestHeader("authorization", `Bearer ${key.get()}`);
    for (const [name, value] of Object.entries(condition)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      wait();
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.upload.onload = () => {
      wait();
      signal.removeEventListener("abort", stop);
      onProgress(1);
    };
    request.onerror = () => end(reject, unreachable());
    request.onload = () => {
      const { status, responseText } = request;
      try {
        if (status >= 300) throw refused(responseText, status);
        end(resolve, parsed(responseText));
      } catch (error) {
        end(reject, error);
      }
    };
    signal.addEventListener("abort", stop);
    wait();
    request.send(file);
  });
}

async function send(method, path, { body, signal }) {
  const given = key.get();
  const headers = given ? { authorization: `Bearer ${given}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  // The reader gave another key in between: what the server said of the one before is old.
  if (response.status === 401 && key.get() !== given) return send(method, path, { body, signal });
  const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const retryAfter = Number.isNaN(seconds) ? null : seconds;
  throw refused(await response.text().catch(() => ""), response.status, retryAfter);
}

function unreachable() {
  return new Refused("The server gives no answer.", 0, "unreachable");
}

function silent(limit) {
  return new Refused(`The server gave no answer for ${limit / 1000} seconds.`, 0, "unreachable");
}

function brokenOff() {
  return new Refused("The connection broke off before the answer's end.", 0, "broken_off");
}

/** A proxy or another server may answer 200 as well. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused("The answer is not JSON, so it is not from this server.", 0, "foreign");
  }
}

function refused(text, status, retryAfter = null) {
  try {
    const { error, error_type: type, reason } = JSON.parse(text);
    return new Refused(String(error ?? `HTTP ${status}`), status, type, reason, retryAfter);
  } catch {
    return new Refused(`HTTP ${status}`, status, "", null, retryAfter);
  }
}
