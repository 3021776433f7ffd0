// A row of numbers as the path of a small curve. No DOM: tests run it with node.

/** The last number that is one; null if there is none. */
export function lastOf(values) {
  return values.findLast((value) => value !== null) ?? null;
}

/**
 * The `d` of a line through `values` in a box, from 0 at its bottom to the highest at its top.
 * A null is a gap. A number between two gaps is a line of no length, which round ends make a dot.
 */
export function linePath(values, width, height, pad = 1.5) {
  const at = scaled(values, width, height, pad);
  let path = "";
  let isDrawn = false;
  values.forEach((value, index) => {
    if (value === null) {
      isDrawn = false;
      return;
    }
    const isAlone = !isDrawn && (values[index + 1] ?? null) === null;
    path += `${isDrawn ? "L" : "M"}${at(value, index)}${isAlone ? "h0" : ""}`;
    isDrawn = true;
  });
  return path;
}

function scaled(values, width, height, pad) {
  const highest = Math.max(0, ...values.filter((value) => value !== null));
  const step = values.length > 1 ? (width - 2 * pad) / (values.length - 1) : 0;
  return (value, index) => {
    const x = values.length > 1 ? pad + index * step : width - pad;
    const y = height - pad - (highest > 0 ? value / highest : 0) * (height - 2 * pad);
    return `${Math.round(x * 10) / 10} ${Math.round(y * 10) / 10}`;
  };
}
