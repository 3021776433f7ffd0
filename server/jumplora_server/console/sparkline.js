// A small curve beside a number. The number is the text of it; the curve is a picture.

import { h, setAttribute, setText, svg } from "./dom.js";
import { dotPath, linePath } from "./trend.js";

const WIDTH = 72;
const HEIGHT = 20;

/** {element, show(values, text)} */
export function sparkline(series) {
  const line = svg("path", { fill: "none" });
  const dots = svg("path", { class: "dots" });
  const picture = svg(
    "svg",
    { class: `spark ${series}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
    line,
    dots,
  );
  const number = h("span", { class: "spark-number" });
  let shown = null;
  return {
    element: h("span", { class: "spark-cell" }, picture, number),
    show(values, text) {
      setText(number, text);
      if (shown?.length === values.length && shown.every((value, at) => value === values[at]))
        return;
      shown = values;
      setAttribute(line, "d", linePath(values, WIDTH, HEIGHT));
      setAttribute(dots, "d", dotPath(values, WIDTH, HEIGHT));
    },
  };
}
