// Learning curves: one small chart per metric, one line per configuration, a band for the interval over its seeds.

import { api } from "./data.js";
import { counted, fmt, h, link, put, s } from "./dom.js";

const FIRST = ["success", "eval/success", "score", "reward", "turns", "invalid_share", "entropy", "kl_old_new", "gradient_norm", "seconds/step"];
const SECTIONS = [
  ["Outcome", /^(success|score|reward|turns|invalid_share|truncated_share|failed|dropped_episodes|replayed_episodes)$/],
  ["Held-out tasks", /^eval\//], ["Rewards", /^reward\//],
  ["Credit", /^(advantage|zero_advantage|silent_group|singleton_anchor|value_)/], ["Time", /^(seconds\/|.*_per_second$)/],
  ["Update", /./],
];
const MARGIN = { left: 44, right: 10, top: 8, bottom: 22 };
const HEIGHT = 176;
const WINDOW = 10;

export function curvesPage(page, _route, shared) {
  let closed = false, every = false, smooth = false, words = "", asked = 0, last = null;
  const search = h("input", { type: "search", class: "filter", placeholder: "Find a metric", "aria-label": "Find a metric", oninput: () => { words = search.value.toLowerCase(); load(); } });
  const toggle = h("button", { class: "quiet", "aria-pressed": "false", onclick: () => { every = !every; toggle.setAttribute("aria-pressed", String(every)); toggle.textContent = every ? "Main metrics" : "All metrics"; load(); } }, "All metrics");
  const smoother = h("button", {
    class: "quiet", "aria-pressed": "false", title: `Running mean over ${WINDOW} points`,
    onclick: () => { smooth = !smooth; smoother.setAttribute("aria-pressed", String(smooth)); if (last) draw(...last); },
  }, "Smooth");
  const legend = h("div", { class: "legend-groups" });
  const charts = h("div", { class: "charts" }, h("p", { class: "soft wait" }, "Reading…"));
  page.append(h("div", { class: "tools" }, search, toggle, smoother), legend, charts);

  function wanted() {
    const names = shared.state?.metrics ?? [];
    const hit = (name) => !words || name.toLowerCase().includes(words);
    if (every || words) return names.filter((n) => hit(n) && !/_(low|high)$/.test(n));
    const sources = names.filter((n) => /^reward\/.*\/mean$/.test(n));
    return [...FIRST, ...sources].filter((n) => names.includes(n));
  }

  async function load() {
    const mine = ++asked;
    const names = wanted();
    try {
      const answer = await api("curves", { metric: names });
      if (closed || mine !== asked) return;
      last = [names, answer];
      draw(names, answer);
    } catch (error) {
      if (!closed && mine === asked) put(charts, h("div", { class: "empty" }, h("b", {}, "No curves."), h("p", {}, error.message)));
    }
  }

  function draw(names, { groups, curves }) {
    put(legend, ...groups.map((group, n) => h("div", { class: "group" }, h("i", { class: `key-line c${(n % 6) + 1}` }), h("span", {}, group.label),
      h("span", { class: "soft", title: group.runs.join("\n") }, counted(group.runs.length, "run")),
      group.runs.length === 1 ? "" : h("span", { class: "soft" }, "mean, 95 % over seeds"))));
    if (!names.length) {
      put(charts, h("div", { class: "empty" }, words ? h("b", {}, "No metric has this in its name.") : [h("b", {}, "No metrics yet."), h("p", {}, "A point appears for every step of a run.")]));
      return;
    }
    const sections = every || words ? SECTIONS.map(([title, pattern], n) => [title, names.filter((name) => SECTIONS.findIndex(([, p]) => p.test(name)) === n && pattern.test(name))]) : [["", names]];
    const width = chartWidth();
    put(charts, ...sections.filter(([, list]) => list.length).flatMap(([title, list]) => [
      title ? h("h2", {}, title) : "",
      h("div", { class: "chart-grid" }, list.map((name) => chart(name, groups, smooth ? (curves[name] ?? []).map(smoothed) : curves[name] ?? [], width))),
    ]));
  }

  const chartWidth = () => {
    const room = charts.clientWidth || 360, columns = Math.max(1, Math.floor((room + 20) / 340));
    return Math.floor((room - 20 * (columns - 1)) / columns) - 26;
  };

  let width = 0;
  const watch = new ResizeObserver(([entry]) => { if (Math.abs(entry.contentRect.width - width) > 4) { width = entry.contentRect.width; if (last && !closed) draw(...last); } });
  watch.observe(page);
  load();
  return {
    update: load,
    key(event) {
      if (event.key !== "/") return false;
      search.focus();
      return true;
    },
    close() { closed = true; watch.disconnect(); },
  };
}

/** One metric: lines, bands, and what the pointer is over. */
export function chart(name, groups, curves, width) {
  const points = curves.flatMap((c) => [...c.mean, ...c.low, ...c.high]).filter((v) => v !== null);
  const steps = curves.flatMap((c) => c.steps);
  const latest = curves.map((c) => c.mean.at(-1) ?? null);
  const readout = h("span", { class: "readout" });
  const frame = h("figure", { class: "chart" }, h("figcaption", {}, h("b", {}, name), readout));
  const rest = () => put(readout, ...(groups.length <= 3 ? latest.map((v, n) => h("span", { class: `ink c${(n % 6) + 1}` }, fmt(v))) : []));
  rest();
  if (!points.length) {
    frame.append(h("p", { class: "soft" }, "no value yet"));
    return frame;
  }
  const share = /success|share|score/.test(name) && Math.min(...points) >= 0 && Math.max(...points) <= 1;
  const [low, high, ticks] = share ? [0, 1, [0, 0.25, 0.5, 0.75, 1]] : nice(Math.min(...points), Math.max(...points));
  const first = Math.min(...steps), last = Math.max(...steps);
  const x = (v) => MARGIN.left + (last === first ? 0.5 : (v - first) / (last - first)) * (width - MARGIN.left - MARGIN.right);
  const y = (v) => MARGIN.top + (1 - (v - low) / (high - low || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const drawing = s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `${name} by step` });
  for (const tick of ticks) {
    drawing.append(s("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick), class: "grid-line" }));
    drawing.append(s("text", { x: MARGIN.left - 6, y: y(tick), class: "tick left" }, short(tick)));
  }
  for (const tick of [...new Set([first, Math.round((first + last) / 2), last])]) drawing.append(s("text", { x: x(tick), y: HEIGHT - 6, class: `tick ${tick === first && first !== last ? "start" : tick === last && first !== last ? "stop" : "middle"}` }, fmt(tick)));
  curves.forEach((c, n) => {
    const colour = `c${(n % 6) + 1}`;
    for (const [from, to] of stretches(c.low)) {
      if (to - from < 2) continue;
      const up = c.steps.slice(from, to).map((v, i) => `${x(v)} ${y(clamp(c.high[from + i], low, high))}`);
      const down = c.steps.slice(from, to).map((v, i) => `${x(v)} ${y(clamp(c.low[from + i], low, high))}`).reverse();
      drawing.append(s("path", { d: `M${[...up, ...down].join("L")}Z`, class: `band ${colour}` }));
    }
    if (c.runs.length > 1 && c.runs.length < 9) for (const run of c.runs) drawing.append(s("path", { d: path(c.steps, run, x, y), class: `thin ${colour}` }));
  });
  curves.forEach((c, n) => {
    drawing.append(s("path", { d: path(c.steps, c.mean, x, y), class: `curve c${(n % 6) + 1}` }));
    if (c.steps.length < 3) c.steps.forEach((v, i) => drawing.append(s("circle", { cx: x(v), cy: y(c.mean[i]), r: 2.5, class: `dot c${(n % 6) + 1}` })));
  });
  const cross = s("line", { y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, class: "cross", visibility: "hidden" });
  drawing.append(cross);
  const at = (event) => {
    const box = drawing.getBoundingClientRect();
    const value = first + (((event.clientX - box.left) * (width / box.width) - MARGIN.left) / (width - MARGIN.left - MARGIN.right)) * (last - first);
    return steps.reduce((best, v) => (Math.abs(v - value) < Math.abs(best - value) ? v : best), steps[0]);
  };
  drawing.addEventListener("pointermove", (event) => {
    const step = at(event);
    cross.setAttribute("x1", x(step));
    cross.setAttribute("x2", x(step));
    cross.setAttribute("visibility", "visible");
    put(readout, h("span", { class: "soft" }, `step ${fmt(step)}`), ...curves.map((c, n) => {
      const i = c.steps.indexOf(step);
      return i < 0 ? "" : h("span", { class: `ink c${(n % 6) + 1}` }, fmt(c.mean[i], 3));
    }));
  });
  drawing.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); rest(); });
  drawing.addEventListener("click", (event) => { location.hash = link.table(`step:${at(event)}`); });
  drawing.append(s("title", {}, "Click to see the trajectories of a step"));
  frame.append(drawing);
  return frame;
}

/** The running mean of everything that a curve has, over the last points; as many as there are at its beginning. */
function smoothed(curve) {
  const running = (values) => values.map((v, n) => {
    const known = values.slice(Math.max(0, n - WINDOW + 1), n + 1).filter((w) => w !== null);
    return v === null ? null : known.reduce((a, b) => a + b, 0) / known.length;
  });
  return { ...curve, mean: running(curve.mean), low: running(curve.low), high: running(curve.high), runs: curve.runs.map(running) };
}

const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
const short = (v) => (Math.abs(v) >= 1e6 ? `${+(v / 1e6).toPrecision(3)}M` : Math.abs(v) >= 1e4 ? `${+(v / 1e3).toPrecision(3)}k` : String(+v.toPrecision(3)).replace("-", "−"));

function path(steps, values, x, y) {
  let pen = "M";
  return steps.map((v, n) => {
    if (values[n] === null) { pen = pen === "M" ? "M" : pen; return ""; }
    const part = `${pen}${x(v).toFixed(1)} ${y(values[n]).toFixed(1)}`;
    pen = "L";
    return part;
  }).join("");
}

function* stretches(values) {
  for (let n = 0; n < values.length;) {
    if (values[n] === null) { n++; continue; }
    const from = n;
    while (n < values.length && values[n] !== null) n++;
    yield [from, n];
  }
}

/** Round limits around the values, and three to six ticks. */
function nice(min, max) {
  // Values that differ in their last digits alone are one value.
  if (max - min <= 1e-9 * Math.max(Math.abs(min), Math.abs(max))) { const room = Math.abs(min) || 1; min -= room / 2; max += room / 2; }
  const rough = (max - min) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((v) => v >= rough);
  const low = Math.floor(min / step + 1e-9) * step, high = Math.ceil(max / step - 1e-9) * step;
  const ticks = [];
  for (let n = 0; n <= Math.round((high - low) / step); n++) ticks.push(Math.abs(low + n * step) < step / 1e6 ? 0 : low + n * step);
  return [low, high, ticks];
}
