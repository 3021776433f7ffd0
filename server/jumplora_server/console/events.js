export function mountEvents(section, context) {
  return function show(overview) {};
}
