// The table's window: at most 100 rows are in the page, and scrolling and keys move the window.

import { arrange } from "./arrange.js";
import { h, setAttribute } from "./dom.js";
import { COLUMNS, taskRow } from "./row.js";
import { reaches, rowAfter, scrolledTo, visibleRows, windowSize, windowStart } from "./window.js";

const HELD_MS = 15000; // how long after a reader's last move the order of the rows stays

/** {element, wanted(), show(answer, isSameView), toTop()}; `onMove()` says that others are wanted. */
export function taskTable(head, context, onMove) {
  const [before, after] = [spacer(), spacer()];
  const body = h("tbody", { role: "rowgroup" }, before, after);
  const table = h("table", { role: "table", "aria-labelledby": "tasks-title" }, head, body);
  const scroller = h("div", { class: "table-scroll", tabindex: -1 }, table);
  const rows = new Map(); // task id -> its row in the page
  let shown = { tasks: [], offset: 0, found: 0, total: 0 };
  let wantedStart = 0;
  let goal = null; // index of the row that a key went to and that is not in the page yet
  let active = null; // task id of the row that Tab reaches
  let touched = -Infinity;

  let view = { rowHeight: 46, height: 600 }; // measured when it changes: to ask is to lay out
  let top = 0; // how far it is scrolled

  const visible = () => visibleRows(top, view.height, view.rowHeight, shown.found);

  function measure() {
    const rowHeight = rows.values().next().value?.element.offsetHeight || view.rowHeight;
    view = { rowHeight, height: scroller.clientHeight - head.offsetHeight };
    top = scroller.scrollTop;
    space();
    moved();
  }

  function moved() {
    const seen = visible();
    if (reaches(shown.offset, shown.tasks.length, seen, shown.found)) return;
    wantedStart = windowStart(seen, wanted().limit, shown.found);
    onMove();
  }

  function wanted() {
    const { rowHeight, height } = view;
    return { offset: wantedStart, limit: windowSize(Math.max(height, rowHeight * 12), rowHeight) };
  }

  function show(answer, isSameView) {
    const isHeld = isSameView && isSamePlace(answer, shown) && performance.now() - touched < HELD_MS;
    const lines = isHeld ? inOrderOf(shown.tasks, answer.tasks) : answer.tasks;
    shown = { ...answer, tasks: lines };
    const focused = body.contains(document.activeElement)
      ? document.activeElement.closest("tr")
      : null;
    const wantedRows = lines.map((line, index) => {
      const row = rows.get(line.task_id) ?? taskRow(line.task_id, context);
      rows.set(line.task_id, row);
      row.show(line, answer.offset + index);
      return row;
    });
    const kept = new Set(wantedRows);
    for (const [taskId, row] of rows) if (!kept.has(row)) rows.delete(taskId);
    const elements = wantedRows.map((row) => row.element);
    const isFocusKept = elements.includes(focused);
    reachGoal(); // before its old row is gone, so that the focus is never lost
    if (focused && !isFocusKept && focused === document.activeElement?.closest("tr")) {
      scroller.focus({ preventScroll: true });
    }
    arrange(body, elements, before, after, isFocusKept ? focused : null);
    reachGoal();
    space();
    setReachable();
    setAttribute(table, "aria-rowcount", answer.found + 1);
    setAttribute(scroller, "aria-busy", null);
  }

  function reachGoal() {
    const line = goal === null ? undefined : shown.tasks[goal - shown.offset];
    const row = line && rows.get(line.task_id);
    if (!row?.element.isConnected) return;
    goal = null;
    active = row.taskId;
    row.focus();
  }

  function space() {
    const { rowHeight } = view;
    const rest = shown.found - shown.offset - shown.tasks.length;
    before.firstChild.style.setProperty("height", `${shown.offset * rowHeight}px`);
    after.firstChild.style.setProperty("height", `${Math.max(0, rest) * rowHeight}px`);
    before.hidden = shown.offset === 0;
    after.hidden = rest <= 0;
  }

  /** Tab reaches the controls of one row; arrows go to the others. */
  function setReachable() {
    if (!rows.has(active)) active = shown.tasks[Math.max(0, visible().first - shown.offset)]?.task_id;
    for (const row of rows.values()) row.setReachable(row.taskId === active);
  }

  function goTo(index) {
    top = scrolledTo(index, top, view.height, view.rowHeight);
    scroller.scrollTop = top;
    goal = index;
    reachGoal();
    setReachable();
    moved();
  }

  const scrolled = () => {
    top = scroller.scrollTop;
    moved();
  };
  scroller.addEventListener("scroll", scrolled, { passive: true }); // once a frame
  scroller.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !shown.found) return;
    const from = body.contains(event.target)
      ? Number(event.target.closest("tr").getAttribute("aria-rowindex")) - 2
      : visible().first;
    if (event.target !== scroller && !body.contains(event.target)) return;
    const page = Math.max(1, Math.floor(view.height / view.rowHeight) - 1);
    const to = rowAfter(event.key, goal ?? from, page, shown.found);
    if (to === null) return;
    event.preventDefault();
    goTo(to);
  });
  body.addEventListener("focusin", (event) => {
    active = event.target.closest("tr").dataset.task;
    setReachable();
  });
  for (const kind of ["pointermove", "pointerdown", "keydown"]) {
    scroller.addEventListener(kind, () => (touched = performance.now()), { passive: true });
  }
  // The box grows with its first rows, and changes with the page's width.
  new ResizeObserver(() => requestAnimationFrame(measure)).observe(scroller);

  return {
    element: scroller,
    wanted,
    show,
    toTop() {
      scroller.scrollTop = top = 0;
      wantedStart = 0;
      goal = null;
      touched = -Infinity;
    },
    focusTask(taskId) {
      const row = rows.get(taskId);
      if (row) row.focus();
      else scroller.focus({ preventScroll: true });
    },
  };
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
