// The section of tasks: search, order, and the table.

import { allow, changeButton } from "./change.js";
import { COLUMNS } from "./columns.js";
import { h, setAttribute, setText } from "./dom.js";
import { counted, whole } from "./format.js";
import { TaskTable } from "./table.js";

const TYPED_MS = 200; // after the last key, before the server is asked
const UNSEEN = {
  401: "The tasks are shown to a key that the server knows.",
  403: "The tasks are shown to a key that may look at them.",
};

/**
 * {show(overview), showFault(error), query(), focusTask(taskId)}: `show` gets the answer to the
 * last query.
 */
export function mountTasks(section, context) {
  const view = { search: "", sort: "task_id", order: "ascending" };
  let asked = null;
  let shownView = null;
  const count = h("p", { id: "tasks-count", class: "muted", role: "status" });
  const search = searchField((text) => change({ search: text }));
  const head = tableHead((column) => change(orderAfter(view, column)));
  const table = new TaskTable(head.element, context, context.refresh);
  const chooser = orderChooser((sort, order) => change({ sort, order }));
  const empty = h("p", { class: "muted", id: "tasks-empty" }, "Asking the server…");
  const whyNot = h("p", { id: "no-publishing", class: "note", role: "status", hidden: true });
  const publish = changeButton(
    "Publish a task",
    { class: "button", id: "publish-task" },
    {
      onclick: () => context.publishTask(),
      explain: () => (whyNot.hidden = false),
    },
  );
  section.prepend(
    h(
      "div",
      { class: "section-head" },
      section.querySelector("h2"),
      count,
      h("div", { class: "section-tools" }, search.element, chooser.element, publish),
    ),
  );
  const help = columnHelp();
  section.append(whyNot, table.element, empty, help);
  table.element.hidden = help.hidden = true;
  head.show(view);

  function change(to) {
    Object.assign(view, to);
    head.show(view);
    chooser.show(view);
    table.toTop();
    context.refresh();
  }

  return {
    focusTask: (taskId) => table.focusTask(taskId),
    /** Before there is anything to show. */
    showFault({ status, message }) {
      if (shownView !== null) return;
      setText(empty, UNSEEN[status] ?? message);
    },
    query() {
      asked = { ...view };
      return new URLSearchParams({ ...asked, ...table.wanted() });
    },
    show(overview) {
      if (!isEqual(asked, view)) return; // the answer to an older question; the next one comes
      const isSameView = shownView !== null && isEqual(shownView, view);
      table.show(overview, isSameView);
      shownView = { ...view };
      const { total, found } = overview;
      const isSearch = view.search !== "";
      setText(
        count,
        isSearch ? `${whole(found)} of ${counted(total, "task")}` : counted(total, "task"),
      );
      const none = isSearch
        ? `No task has “${view.search}” in its name.`
        : "No task is published yet. “Publish a task” sends an adapter file or a PEFT archive.";
      setText(empty, none);
      empty.hidden = found > 0;
      table.element.hidden = help.hidden = found === 0;
      const { may_change: mayChange, why_not: reason } = overview.server;
      allow(publish, mayChange, whyNot);
      setAttribute(publish, "title", mayChange ? null : reason);
      setText(whyNot, mayChange ? "" : `Changes are off: ${reason}.`);
      if (mayChange) whyNot.hidden = true;
    },
  };
}

function isEqual(a, b) {
  return a.search === b.search && a.sort === b.sort && a.order === b.order;
}

/** The order after a click on a column: its own first one, or the other way round. */
function orderAfter({ sort, order }, column) {
  if (sort !== column.sort) return { sort: column.sort, order: column.first };
  return { order: order === "ascending" ? "descending" : "ascending" };
}

function searchField(onText) {
  let timer = null;
  const field = h("input", {
    id: "tasks-search",
    class: "field",
    type: "search",
    placeholder: "Search tasks",
    autocomplete: "off",
    spellcheck: "false",
    oninput() {
      clearTimeout(timer);
      timer = setTimeout(() => onText(field.value.trim()), TYPED_MS);
    },
  });
  const label = h("label", { class: "unseen", for: "tasks-search" }, "Search tasks");
  return { element: h("span", { class: "search" }, label, field) };
}

function tableHead(onColumn) {
  const cells = COLUMNS.map((column) => {
    const attributes = { role: "columnheader", scope: "col", class: `c-${column.name}` };
    if (column.isUnseen) return h("th", attributes, h("span", { class: "unseen" }, column.title));
    const { about: title } = column;
    if (!column.sort) return h("th", { ...attributes, title }, column.title);
    const button = { type: "button", class: "sorter", title, onclick: () => onColumn(column) };
    return h("th", attributes, h("button", button, column.title));
  });
  const row = h("tr", { role: "row", "aria-rowindex": 1 }, cells);
  return {
    element: h("thead", { role: "rowgroup" }, row),
    show({ sort, order }) {
      cells.forEach((cell, index) => {
        setAttribute(cell, "aria-sort", COLUMNS[index].sort === sort ? order : null);
      });
    },
  };
}

function columnHelp() {
  const lines = COLUMNS.filter(({ about }) => about).map(({ title, about }) => [title, about]);
  lines.push([
    "Rows",
    "Above, beside the server's name: places in the batch that the model computes. Each answer that " +
      "is being written has one or more.",
  ]);
  return h(
    "details",
    { class: "column-help" },
    h("summary", {}, "What do the columns mean?"),
    h(
      "dl",
      {},
      lines.map(([title, about]) => h("div", {}, h("dt", {}, title), h("dd", {}, about))),
    ),
  );
}

/** For narrow pages, where rows are cards and have no header to click. */
function orderChooser(onOrder) {
  const choices = COLUMNS.filter((column) => column.sort).flatMap(({ title, sort, first }) => {
    const other = first === "ascending" ? "descending" : "ascending";
    return [first, other].map((order) => ({ sort, order, text: `${title}, ${order}` }));
  });
  const select = h(
    "select",
    {
      id: "tasks-order",
      class: "field",
      onchange: () => {
        const { sort, order } = choices[select.selectedIndex];
        onOrder(sort, order);
      },
    },
    choices.map(({ text }) => h("option", {}, text)),
  );
  const label = h("label", { class: "unseen", for: "tasks-order" }, "Order of the tasks");
  return {
    element: h("span", { class: "order-chooser" }, label, select),
    show({ sort, order }) {
      select.selectedIndex = choices.findIndex(
        (each) => each.sort === sort && each.order === order,
      );
    },
  };
}
