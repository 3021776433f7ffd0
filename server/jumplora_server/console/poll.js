// Asks again and again: every two seconds while the page is seen, less often while the server gives no answer.

const EVERY_MS = 2000;
const LONGEST_MS = 30000;

/** How long to wait after that many failures in a row. */
export function waitAfter(failures) {
  return Math.min(EVERY_MS * 2 ** failures, LONGEST_MS);
}

/**
 * Calls `load()` and then `onAnswer(answer)`, or `onFault(error, waitMs)`, whose result `false`
 * ends it until the next `now()`. One call at a time; `now()` during one means another one at once.
 */
export function poll(load, { onAnswer, onFault, page = document }) {
  let timer = null;
  let isAsking = false;
  let isWanted = false;
  let failures = 0;

  async function ask() {
    clearTimeout(timer);
    if (isAsking) {
      isWanted = true;
      return;
    }
    isAsking = true;
    isWanted = false;
    let wait = EVERY_MS;
    try {
      wait = await once();
    } finally {
      isAsking = false; // also after a fault of what is called here
      if (isWanted) ask();
      else if (wait !== null && !page.hidden) timer = setTimeout(ask, wait);
    }
  }

  /** Milliseconds until the next time; null: none. */
  async function once() {
    let answer;
    try {
      answer = await load();
    } catch (error) {
      failures += 1;
      const wait = waitAfter(failures);
      return onFault(error, wait) === false ? null : wait;
    }
    failures = 0;
    onAnswer(answer);
    return EVERY_MS;
  }

  page.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!page.hidden) ask();
  });
  return { now: ask };
}
