export function mountTry(section, context) {
  return function show(overview) {};
}
