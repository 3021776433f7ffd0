// A bar that says how much of something is in use.

import { h, setAttribute, setText } from "./dom.js";

const FULL_SHARE = 0.9; // from here on it is worth a look

/** {element, show(used, total, text)}; `label` names it for screen readers. */
export function meter(label) {
  const fill = h("span", { class: "meter-fill" });
  const bar = h(
    "span",
    { class: "meter", role: "meter", "aria-label": label, "aria-valuemin": 0 },
    fill,
  );
  const text = h("span");
  return {
    element: h("span", { class: "meter-cell" }, text, bar),
    show(used, total, says) {
      const share = total > 0 ? Math.min(1, used / total) : 0;
      setText(text, says);
      setAttribute(bar, "aria-valuemax", total);
      setAttribute(bar, "aria-valuenow", Math.min(used, total));
      setAttribute(bar, "aria-valuetext", says);
      bar.classList.toggle("full", share >= FULL_SHARE);
      fill.style.setProperty("width", `${(share * 100).toFixed(1)}%`);
    },
  };
}
