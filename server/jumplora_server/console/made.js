// How a version was made: its facts, its ancestors, and where it is dense.

import { h, timeOf } from "./dom.js";
import { bytes, digits, moduleName, NONE, percent, whole, words } from "./format.js";

const MOST_BARS = 200; // at first; large adapters have up to 2,048 modules

export function facts(detail) {
  const { manifest } = detail;
  const scores = Object.entries(manifest?.scores ?? {});
  const items = [
    ["Kind", manifest?.kind],
    ["Method", manifest?.method],
    [
      "Rank",
      manifest?.rank &&
        `${manifest.rank}${manifest.alpha ? `, alpha ${scoreOf(manifest.alpha)}` : ""}`,
    ],
    ["Density", percent(detail.density)],
    ["Non-zeros", whole(detail.nonzeros)],
    ["Memory", memoryOf(detail)],
    ["File", bytes(detail.bytes.disk)],
    ["In flight", String(detail.in_flight)],
    ["Created", manifest?.created && timeOf(manifest.created)],
    ["Backbone", manifest?.backbone.name],
    ...scores.map(([name, score]) => [words(name), scoreOf(score)]),
  ];
  return h(
    "dl",
    { class: "task-facts" },
    items.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value || NONE))),
  );
}

function memoryOf({ bytes: { host, device }, trunk_bytes: trunk, folded_depth: depth }) {
  const where = [host && `${bytes(host)} host`, device && `${bytes(device)} device`].filter(
    Boolean,
  );
  const folded = depth ? ` + ${bytes(trunk)} trunk of ${depth}` : "";
  return where.length ? where.join(", ") + folded : "not in memory";
}

const scoreOf = (score) =>
  Math.abs(score) < 1000 ? String(Number(score.toPrecision(4))) : String(Math.round(score));

/** Chips, oldest ancestor first; `taskOf(version)` is the task that has it, or undefined. */
export function lineageChips(detail, taskOf, openTask) {
  const ancestors = detail.manifest?.lineage ?? [];
  if (!ancestors.length)
    return h("p", { class: "muted" }, "No ancestors: trained on the bare backbone.");
  const chips = ancestors.map((version) => {
    const task = taskOf(version);
    const name = [task ?? "", h("code", {}, digits(version))];
    return h(
      "li",
      {},
      task
        ? h(
            "button",
            { type: "button", class: "chip", title: version, onclick: () => openTask(task) },
            name,
          )
        : h("span", { class: "chip", title: `${version}: no task here has it now` }, name),
    );
  });
  const own = h("li", {}, h("span", { class: "chip own" }, detail.task_id));
  return h("ol", { class: "lineage" }, chips, own);
}

/** A bar for each module; the numbers stand beside them, so the bars are for the eye alone. */
export function densityBars(density) {
  const modules = Object.entries(density);
  if (!modules.length) return h("p", { class: "muted" }, "Not known.");
  const highest = Math.max(...modules.map(([, share]) => share)) || 1;
  const list = h("ul", { class: "densities" });
  const add = (some) => list.append(...some.map(([name, share]) => bar(name, share, highest)));
  add(modules.slice(0, MOST_BARS));
  const rest = modules.slice(MOST_BARS);
  if (!rest.length) return list;
  const more = h(
    "button",
    { type: "button", class: "button small", onclick: showRest },
    `Show the other ${rest.length}`,
  );
  function showRest() {
    add(rest);
    more.remove();
  }
  return h("div", {}, list, more);
}

function bar(name, share, highest) {
  const width = `${((share / highest) * 100).toFixed(1)}%`;
  return h(
    "li",
    {},
    h("span", { class: "density-name", title: name }, moduleName(name)),
    h("span", { class: "density-bar", "aria-hidden": "true" }, h("span", { style: { width } })),
    h("span", { class: "density-share" }, percent(share)),
  );
}
