// Which of very many rows are in the page: arithmetic alone, tests run it with node.

export const MOST_ROWS = 100; // in the page at a time, and in an answer of the server
const STEP = 10; // windows begin at its multiples, so that a small scroll asks nothing

/** The rows that a reader sees: the first, and the one after the last. */
export function visibleRows(scrollTop, height, rowHeight, found) {
  const first = Math.min(Math.max(0, Math.floor(scrollTop / rowHeight)), Math.max(0, found - 1));
  const end = Math.min(found, Math.ceil((scrollTop + height) / rowHeight));
  return { first, end: Math.max(first, end) };
}

/** How many rows a window has: three screens of them, and at most MOST_ROWS. */
export function windowSize(height, rowHeight) {
  const screen = Math.ceil(height / rowHeight) + 1;
  // The second is what `reaches` asks, wherever the window begins.
  const needed = Math.max(3 * screen, 2 * screen + STEP + 2);
  return Math.min(MOST_ROWS, Math.ceil(needed / STEP) * STEP);
}

/** Where the window of `size` rows begins that has the visible ones in its middle. */
export function windowStart({ first, end }, size, found) {
  const start = Math.round((first + end - size) / 2 / STEP) * STEP;
  const last = Math.ceil(Math.max(0, found - size) / STEP) * STEP;
  return Math.min(Math.max(0, start), last);
}

/** Whether the rows from `offset` reach far enough beyond the visible ones; the ends of all do. */
export function reaches(offset, count, { first, end }, found) {
  const seen = end - first;
  const margin = Math.min(Math.ceil(seen / 2), Math.floor((MOST_ROWS - seen - STEP) / 2) - 1);
  const hasBefore = offset <= Math.max(0, first - margin);
  const hasAfter = offset + count >= Math.min(found, end + margin);
  return hasBefore && hasAfter;
}

/** Where to scroll to, to see row `index` from its top; `scrollTop` if it is wholly seen. */
export function scrolledTo(index, scrollTop, height, rowHeight) {
  const top = index * rowHeight;
  if (top < scrollTop) return top;
  return top + rowHeight > scrollTop + height ? Math.min(top, top + rowHeight - height) : scrollTop;
}

/** The row that a key goes to from `index`, or null for a key that moves nothing. */
export function rowAfter(key, index, page, found) {
  const to = {
    ArrowUp: index - 1,
    ArrowDown: index + 1,
    PageUp: index - page,
    PageDown: index + page,
    Home: 0,
    End: found - 1,
  }[key];
  return to === undefined ? null : Math.min(Math.max(0, to), found - 1);
}
