// The table's window: at most 100 rows are in the page, and scrolling and keys move the window.

import { arrange } from "./arrange.js";
import { COLUMNS } from "./columns.js";
import { h, setAttribute } from "./dom.js";
import { taskRow } from "./row.js";
import { reaches, rowAfter, scrolledTo, visibleRows, windowSize, windowStart } from "./window.js";

const HELD_MS = 15000; // how long after the pointer's last move the rows keep their order
const FEWEST_SEEN = 12; // rows for which the first window is made, before the height is known

/** `element` has the table; `onMove()` is called when `wanted()` is another window. */
export class TaskTable {
  #rows = new Map(); // task id -> its row in the page
  #shown = { tasks: [], offset: 0, found: 0, total: 0 };
  #view = { rowHeight: 52, height: 600 }; // measured when it changes: to ask is to lay out
  #top = 0; // how far it is scrolled
  #start = 0; // of the wanted window
  #goal = null; // index of the row that a key went to and that is not in the page yet
  #active = null; // task id of the row that Tab reaches
  #touched = -Infinity; // when the pointer last moved here

  constructor(head, context, onMove) {
    this.context = context;
    this.onMove = onMove;
    this.head = head;
    [this.before, this.after] = [spacer(), spacer()];
    this.body = h("tbody", { role: "rowgroup" }, this.before, this.after);
    const names = { role: "table", "aria-labelledby": "tasks-title" };
    this.table = h("table", names, head, this.body);
    this.element = h("div", { class: "table-scroll", tabindex: -1 }, this.table);
    this.#listen();
  }

  /** Which rows to ask for. */
  wanted() {
    const { rowHeight, height } = this.#view;
    const limit = windowSize(Math.max(height, rowHeight * FEWEST_SEEN), rowHeight);
    return { offset: this.#start, limit };
  }

  /** Shows an overview's tasks; `isSameView`: with the search and the order of the last one. */
  show(answer, isSameView) {
    const isHeld = isSameView && isSamePlace(answer, this.#shown) && this.#isRead();
    const lines = isHeld ? inOrderOf(this.#shown.tasks, answer.tasks) : answer.tasks;
    this.#shown = { ...answer, tasks: lines };
    const rows = lines.map((line, index) => this.#row(line, answer.offset + index));
    const taskIds = new Set(lines.map((line) => line.task_id));
    for (const taskId of this.#rows.keys()) if (!taskIds.has(taskId)) this.#rows.delete(taskId);
    this.#place(rows.map((row) => row.element));
    this.#space();
    this.#setReachable();
    setAttribute(this.table, "aria-rowcount", answer.found + 1);
  }

  /** Back to the first row, as for another search. */
  toTop() {
    this.element.scrollTop = this.#top = this.#start = 0;
    this.#goal = null;
    this.#touched = -Infinity;
  }

  focusTask(taskId) {
    const row = this.#rows.get(taskId);
    if (row) row.focus();
    else this.element.focus({ preventScroll: true });
  }

  /** Whether a reader is at a row: its focus, a selection in it, or the pointer of late. */
  #isRead() {
    const { anchorNode, isCollapsed } = getSelection();
    return (
      this.body.contains(document.activeElement) ||
      (!isCollapsed && this.body.contains(anchorNode)) ||
      performance.now() - this.#touched < HELD_MS
    );
  }

  #row(line, index) {
    const row = this.#rows.get(line.task_id) ?? taskRow(line.task_id, this.context);
    this.#rows.set(line.task_id, row);
    row.show(line, index, this.#shown.trend_seconds);
    return row;
  }

  #place(elements) {
    const focused = this.body.contains(document.activeElement)
      ? document.activeElement.closest("tr")
      : null;
    const isKept = elements.includes(focused);
    // Its row goes: the focus waits at the table for the row that a key went to, or the next key.
    if (focused && !isKept) this.element.focus({ preventScroll: true });
    arrange(this.body, elements, this.before, this.after, isKept ? focused : null);
    this.#reachGoal();
  }

  #reachGoal() {
    const line =
      this.#goal === null ? undefined : this.#shown.tasks[this.#goal - this.#shown.offset];
    const row = line && this.#rows.get(line.task_id);
    if (!row) return;
    this.#goal = null;
    this.#active = row.taskId;
    row.focus();
  }

  #space() {
    const { offset, tasks, found } = this.#shown;
    const rest = Math.max(0, found - offset - tasks.length);
    for (const [element, count] of [
      [this.before, offset],
      [this.after, rest],
    ]) {
      element.firstChild.style.setProperty("height", `${count * this.#view.rowHeight}px`);
      element.hidden = count === 0;
    }
  }

  /** Tab reaches the controls of one row; arrows go to the others. */
  #setReachable() {
    if (!this.#rows.has(this.#active)) {
      const first = Math.max(0, this.#visible().first - this.#shown.offset);
      this.#active = this.#shown.tasks[first]?.task_id;
    }
    for (const row of this.#rows.values()) row.setReachable(row.taskId === this.#active);
  }

  #visible() {
    return visibleRows(this.#top, this.#view.height, this.#view.rowHeight, this.#shown.found);
  }

  #moved() {
    this.#top = this.element.scrollTop;
    const { offset, tasks, found } = this.#shown;
    const visible = this.#visible();
    if (reaches(offset, tasks.length, visible, found)) return;
    this.#start = windowStart(visible, this.wanted().limit, found);
    this.onMove();
  }

  #measure() {
    const rowHeight =
      this.#rows.values().next().value?.element.offsetHeight || this.#view.rowHeight;
    this.#view = { rowHeight, height: this.element.clientHeight - this.head.offsetHeight };
    this.#space();
    this.#moved();
  }

  #pressed(event) {
    const isModified = event.altKey || event.ctrlKey || event.metaKey;
    const isInRows = this.body.contains(event.target);
    if (isModified || !this.#shown.found || !(isInRows || event.target === this.element)) return;
    const { rowHeight, height } = this.#view;
    const from = isInRows
      ? Number(event.target.closest("tr").getAttribute("aria-rowindex")) - 2
      : this.#visible().first;
    const page = Math.max(1, Math.floor(height / rowHeight) - 1);
    const to = rowAfter(event.key, this.#goal ?? from, page, this.#shown.found);
    if (to === null) return;
    event.preventDefault();
    this.element.scrollTop = scrolledTo(to, this.#top, height, rowHeight);
    this.#goal = to;
    this.#reachGoal();
    this.#setReachable();
    this.#moved();
  }

  #listen() {
    this.element.addEventListener("scroll", () => this.#moved(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.#pressed(event));
    this.body.addEventListener("focusin", (event) => {
      this.#active = event.target.closest("tr").dataset.task;
      this.#setReachable();
    });
    for (const kind of ["pointermove", "pointerdown"]) {
      const note = () => (this.#touched = performance.now());
      this.element.addEventListener(kind, note, { passive: true });
    }
    // The box grows with its first rows, and changes with the page's width.
    new ResizeObserver(() => requestAnimationFrame(() => this.#measure())).observe(this.element);
  }
}

function spacer() {
  const cell = h("td", { colspan: COLUMNS.length, role: "presentation" });
  return h("tr", { class: "spacer", "aria-hidden": "true", role: "presentation" }, cell);
}

function isSamePlace(answer, shown) {
  return ["offset", "found", "total"].every((name) => answer[name] === shown[name]);
}

/** The newest of each line that is shown, where they are: a reader's rows do not change places. */
function inOrderOf(shown, news) {
  const newest = new Map(news.map((line) => [line.task_id, line]));
  return shown.map((line) => newest.get(line.task_id) ?? line);
}
