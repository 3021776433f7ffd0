// Puts children into a wanted order with as few moves as it can.

/**
 * Makes `wanted` the children of `parent` between `start` and `end`, which are children as well.
 * `kept` (one of them, or null) is never moved: it would lose its focus and what is selected in it.
 */
export function arrange(parent, wanted, start, end, kept) {
  const isWanted = new Set(wanted);
  let next = start.nextSibling;
  const drop = () => {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  };
  for (const node of wanted) {
    while (next !== end && !isWanted.has(next)) drop();
    if (node === kept) while (next !== kept) drop(); // those come again behind it
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  while (next !== end) drop();
}
