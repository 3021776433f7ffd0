// A small curve beside its last number. The number is the text of it; the curve is a picture.

import { h, setAttribute, setText, svg } from "./dom.js";
import { lastOf, linePath } from "./trend.js";

const WIDTH = 72;
const HEIGHT = 20;

/** {element, show(values)}; `says` makes the text of the last number, which may be null. */
export function sparkline(series, says) {
  const line = svg("path", { fill: "none" });
  const picture = svg(
    "svg",
    { class: `spark ${series}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
    line,
  );
  const number = h("span", { class: "spark-number" });
  let shown = null;
  return {
    element: h("span", { class: "spark-cell" }, picture, number),
    show(values) {
      if (shown?.length === values.length && shown.every((value, at) => value === values[at]))
        return;
      shown = values;
      setAttribute(line, "d", linePath(values, WIDTH, HEIGHT));
      setText(number, says(lastOf(values)));
    },
  };
}
