// Elements, numbers as text, and where links lead. Text is always set as text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, v] of Object.entries(value)) key.startsWith("--") ? element.style.setProperty(key, v) : (element.style[key] = v);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Put these into an element in place of what it holds; nothing for null, false and "". */
export function put(element, ...children) {
  element.replaceChildren();
  return fill(element, {}, children);
}

const whole = new Intl.NumberFormat("en-US");

/** An integer with separators, another number with `digits` behind the point, a dash for what is not known. */
export function fmt(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value === "string") return value;
  if (Number.isInteger(value) && digits !== "fixed") return whole.format(value).replace("-", "−");
  const size = Math.abs(value);
  if (digits === "fixed" && size > 0 && size < 0.005) return value.toExponential(0).replaceAll("-", "−");
  const places = digits === "fixed" ? 2 : size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? digits : 3;
  return (size !== 0 && size < 0.0005 ? value.toExponential(1) : value.toFixed(places)).replace("-", "−");
}

export const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
export const counted = (n, noun) => `${fmt(n)} ${noun}${n === 1 ? "" : "s"}`;

const encode = (part) => encodeURIComponent(part).replaceAll("%3A", ":");

function query(parameters) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) for (const v of [value].flat()) if (v) search.append(name, v);
  const text = search.toString();
  return text ? `?${text}` : "";
}

/** Addresses behind the #. `at` is RUN/FILE:NUMBER; a run's name may hold slashes. */
export const link = {
  curves: () => "#/curves",
  table: (q = "", sort = "") => `#/trajectories${query({ q, sort })}`,
  trajectory(at, { q = "", sort = "", turn = null } = {}) {
    const cut = at.lastIndexOf("/");
    const place = `#/run/${encode(at.slice(0, cut))}/t/${encode(at.slice(cut + 1))}`;
    return `${place}${turn === null ? "" : `/turn/${turn + 1}`}${query({ q, sort })}`;
  },
  beside: (ats) => `#/beside${query({ t: ats })}`,
};

/** A value for the filter's grammar, in quotes where it needs them. */
export const quoted = (value) => (/^[^\s",]+$/.test(value) ? value : `"${String(value).replace(/(["\\])/g, "\\$1")}"`);

/** How an episode ended, as a word and a class of colour. */
export function ending(row) {
  if (row.status === "damaged") return ["unreadable", "bad"];
  if (row.status === "failed") return ["failed", "bad"];
  if (row.success) return ["solved", "good"];
  return row.status === "truncated" ? ["out of turns", "late"] : ["not solved", "none"];
}

export const badge = (row) => {
  const [word, kind] = ending(row);
  return h("span", { class: `badge ${kind}` }, h("i", { "aria-hidden": "true" }), word);
};

export const typing = (event) => /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
