export function mountDrawer(dialog, context) {
  context.publishTask = () => {};
  return () => {};
}
