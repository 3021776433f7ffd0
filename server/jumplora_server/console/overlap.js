export function mountOverlap(section, context) {
  return function show(overview) {};
}
