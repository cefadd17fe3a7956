// What an environment draws of its state: a grid of cells, or a page. The description comes from the environment
// (`TurnEnv.picture`), the drawing from here, so that no text of a model can become markup.

import { h, s } from "./dom.js";

const CELL = 28;

/** An element for a picture, or null. */
export function picture(data, label) {
  if (!data) return null;
  if (data.kind === "grid") return grid(data, label);
  if (data.kind === "page") return shown(data, label);
  return null;
}

function grid({ cells }, label) {
  const height = cells.length * CELL, width = Math.max(...cells.map((row) => row.length)) * CELL;
  const all = s("svg", { class: "grid", viewBox: `0 0 ${width} ${height}`, width: Math.min(width, 224), role: "img", "aria-label": label });
  cells.forEach((row, y) => row.forEach((cell, x) => {
    const place = s("g", { transform: `translate(${x * CELL} ${y * CELL})` });
    const [ground, ...things] = cell.split("+");
    place.append(s("rect", { width: CELL, height: CELL, class: `ground ${GROUNDS.has(ground) ? ground : "floor"}` }));
    for (const thing of GROUNDS.has(ground) ? things : [ground, ...things]) place.append(...draw(thing));
    all.append(place);
  }));
  return all;
}

const GROUNDS = new Set(["floor", "wall", "ice", "hole", "target", "goal"]);
const MIDDLE = CELL / 2;

function draw(thing) {
  switch (thing) {
    case "box":
      return [s("rect", { x: 5, y: 5, width: CELL - 10, height: CELL - 10, rx: 2, class: "box" }), s("path", { d: "M5 5L23 23M23 5L5 23", class: "box-line" })];
    case "player":
      return [s("circle", { cx: MIDDLE, cy: MIDDLE, r: 7.5, class: "player" })];
    case "":
      return [];
    default:
      return [s("text", { x: MIDDLE, y: MIDDLE, class: "sign" }, thing.slice(0, 6))];
  }
}

function shown({ parts }, label) {
  return h("div", { class: "shop", role: "img", "aria-label": label }, parts.map(([role, text]) => h("span", { class: role === "button" ? "shop-button" : role === "heading" ? "shop-heading" : "shop-text" }, text)));
}
