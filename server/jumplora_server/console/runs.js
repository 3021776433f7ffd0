export function mountRuns(section, context) {
  return function show(overview) {};
}
