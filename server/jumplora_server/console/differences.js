// What differs between two answers. Pure.

const MOST_CELLS = 1_000_000; // of the table below; larger answers are compared from both ends only

/** The tokens of either list that are not in a longest common subsequence: two sets of indices. */
export function differingTokens(first, second) {
  let start = 0;
  while (start < first.length && start < second.length && first[start] === second[start]) start++;
  let [a, b] = [first.length, second.length];
  while (a > start && b > start && first[a - 1] === second[b - 1]) [a, b] = [a - 1, b - 1];
  const [left, right] = [first.slice(start, a), second.slice(start, b)];
  const common = left.length * right.length > MOST_CELLS ? [] : commonPairs(left, right);
  const [inFirst, inSecond] = [0, 1].map((side) => new Set(common.map((pair) => pair[side])));
  const others = (list, kept) =>
    new Set([...list.keys()].filter((i) => !kept.has(i)).map((i) => i + start));
  return [others(left, inFirst), others(right, inSecond)];
}

/** Pairs of indices of a longest common subsequence. */
function commonPairs(left, right) {
  const width = right.length + 1;
  // lengths[i * width + j]: of the longest one of left[i:] and right[j:]
  const lengths = new Uint32Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      const here = i * width + j;
      lengths[here] =
        left[i] === right[j]
          ? lengths[here + width + 1] + 1
          : Math.max(lengths[here + width], lengths[here + 1]);
    }
  }
  const pairs = [];
  let [i, j] = [0, 0];
  while (i < left.length && j < right.length) {
    const here = i * width + j;
    if (left[i] === right[j]) pairs.push([i++, j++]);
    else if (lengths[here + width] >= lengths[here + 1]) i++;
    else j++;
  }
  return pairs;
}

/** [{text, first, second}] of all options of both: those of both, the largest difference first,
 *  then those of one, the likeliest first; null: not there. */
export function optionDifferences(first, second) {
  const [left, right] = [first, second].map(
    (choices) => new Map(choices.map((option) => [option.text, option.probability])),
  );
  const rows = [...new Set([...left.keys(), ...right.keys()])].map((text) => ({
    text,
    first: left.get(text) ?? null,
    second: right.get(text) ?? null,
  }));
  const isOfOne = (row) => Number(row.first === null || row.second === null);
  const size = (row) => Math.abs((row.first ?? 0) - (row.second ?? 0));
  return rows.sort((a, b) => isOfOne(a) - isOfOne(b) || size(b) - size(a));
}
