// Light or dark: as the system has it, or as the reader chose on this page. Runs before the first
// paint, so that a chosen scheme does not begin with a flash of the other one.

const CHOICE = "jumplora.theme";
export const THEMES = ["system", "light", "dark"];

/** What the reader chose: one of THEMES. */
export function theme() {
  try {
    const chosen = localStorage.getItem(CHOICE);
    return THEMES.includes(chosen) ? chosen : "system";
  } catch {
    return "system"; // a browser that keeps nothing
  }
}

export function setTheme(chosen) {
  try {
    if (chosen === "system") localStorage.removeItem(CHOICE);
    else localStorage.setItem(CHOICE, chosen);
  } catch {
    // It holds until the page is left.
  }
  apply(chosen);
}

function apply(chosen) {
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
}

apply(theme());
