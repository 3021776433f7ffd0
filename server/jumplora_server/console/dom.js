// Makes elements. Text is only ever set as text, so nothing that a server says becomes markup.

import { when } from "./format.js";

/** h("button", {class: "wide", onclick: f, style: {width: "4px"}}, "text", child, …) */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  element.append(...children.flat());
  return element;
}

/** A time as people read it; the whole of it where it is pointed at. */
export function timeOf(text) {
  return h("time", { datetime: text, title: text }, when(text));
}

/** Changes the text only if it is another one: a selection in it stays. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Changes an attribute only if it is another one; null takes it away. */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/**
 * Makes the children of `place` anew. The focus goes to the child with the `data-key` of the one that
 * had it, or to the first that takes it, and what was scrolled stays scrolled.
 */
export function renew(place, children) {
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const boxes = () => [...place.querySelectorAll(".scroll")];
  const scrolled = boxes().map((box) => [box.scrollLeft, box.scrollTop]);
  place.replaceChildren(...children);
  boxes().forEach((box, index) => box.scrollTo(...(scrolled[index] ?? [0, 0])));
  if (focused === null) return;
  const same = [...place.querySelectorAll("[data-key]")].find(
    (element) => element.dataset.key === focused.dataset.key,
  );
  (same ?? place.querySelector("button, [tabindex='0']"))?.focus({ preventScroll: true });
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    // The page's policy forbids style as an attribute and allows its properties.
    else if (name === "style")
      for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else element.setAttribute(name, value === true ? "" : value);
  }
}
