// A row of numbers as the path of a small curve. No DOM: tests run it with node.

/**
 * The `d` of a line through `values` in a box, from 0 at its bottom to the highest at its top.
 * A null is a gap.
 */
export function linePath(values, width, height, pad = 2) {
  const at = scaled(values, width, height, pad);
  return runsOf(values)
    .map((run) => run.map((index, place) => `${place ? "L" : "M"}${at(index)}`).join(""))
    .join("");
}

/** The `d` of dots, which round ends make: the one or two numbers between gaps are hardly a line. */
export function dotPath(values, width, height, pad = 2) {
  const at = scaled(values, width, height, pad);
  return runsOf(values)
    .filter((run) => run.length <= 2)
    .flat()
    .map((index) => `M${at(index)}h0`)
    .join("");
}

/** The indices of the numbers, cut at gaps. */
function runsOf(values) {
  const runs = [];
  values.forEach((value, index) => {
    if (value === null) return;
    if (index === 0 || values[index - 1] === null) runs.push([]);
    runs.at(-1).push(index);
  });
  return runs;
}

function scaled(values, width, height, pad) {
  const highest = Math.max(0, ...values.filter((value) => value !== null));
  const step = values.length > 1 ? (width - 2 * pad) / (values.length - 1) : 0;
  return (index) => {
    const x = values.length > 1 ? pad + index * step : width - pad;
    const y = height - pad - (highest > 0 ? values[index] / highest : 0) * (height - 2 * pad);
    return `${Math.round(x * 10) / 10} ${Math.round(y * 10) / 10}`;
  };
}
