// The table of trajectories. Only the rows in sight are in the page; stretches of it are fetched as they come into sight.

import { api } from "./data.js";
import { badge, counted, fmt, h, link, percent, put, quoted } from "./dom.js";

const HEIGHT = 34;
const STRETCH = 120;
const TALLEST = 12e6; // pixels; browsers cannot make taller elements, so beyond it a pixel stands for more than one

const COLUMNS = [
  { field: "status", label: "Outcome", cell: badge, width: "112px", sort: "success" },
  { field: "step", label: "Step", number: true, width: "64px", facet: "step" },
  { field: "run", label: "Run", width: "minmax(90px, 1.2fr)", facet: "run", several: true },
  { field: "env", label: "Environment", width: "minmax(90px, 1fr)", facet: "env", several: true },
  { field: "task", label: "Task", width: "minmax(130px, 1.6fr)" },
  { field: "family", label: "Family", width: "minmax(70px, 0.8fr)", facet: "family", present: true },
  { field: "difficulty", label: "Difficulty", width: "84px", facet: "difficulty", present: true },
  { field: "split", label: "Split", width: "58px", facet: "split", several: true },
  { field: "seed", label: "Seed", number: true, width: "104px", cell: (row) => String(row.seed), extra: true },
  { field: "group", label: "Group", number: true, width: "72px", cell: (row) => `${row.group}.${row.sample}`, extra: true },
  { field: "turns", label: "Turns", number: true, width: "62px" },
  { field: "invalid", label: "Invalid", number: true, width: "66px", cell: (row) => (row.invalid ? fmt(row.invalid) : h("span", { class: "faint" }, "0")) },
  { field: "score", label: "Score", number: true, width: "108px", cell: score },
  { field: "reward", label: "Reward", number: true, width: "78px", cell: (row) => fmt(row.reward, "fixed") },
];

function score(row) {
  const value = Math.max(0, Math.min(1, row.score));
  return [h("span", { class: "track", "aria-hidden": "true" }, h("i", { style: { width: `${100 * value}%` } })), fmt(row.score, "fixed")];
}

const FACETS = [
  ["success", "Success"], ["status", "Status"], ["step", "Step"], ["run", "Run"], ["env", "Environment"], ["split", "Split"],
  ["family", "Family"], ["difficulty", "Difficulty"], ["agent", "Agent"], ["error", "Error"],
];

export function tablePage(page, { q, sort }, shared) {
  let total = 0, version = 0, top = 0, cursor = 0, timer = 0, closed = false, asked = 0, again = false;
  const underway = new Set();
  let stretches = new Map();

  const input = h("input", {
    type: "search", class: "filter", value: q, spellcheck: "false", autocomplete: "off", "aria-label": "Filter",
    placeholder: "Filter: success:no turns>5 step:10.. or any words",
    oninput: () => { clearTimeout(timer); timer = setTimeout(() => go(input.value, sort), 250); },
    onkeydown: (event) => { if (event.key === "Enter") { clearTimeout(timer); go(input.value, sort); list.focus(); } },
  });
  const problem = h("p", { class: "bad", role: "alert", hidden: true });
  const facets = h("div", { class: "facets" });
  const figures = h("p", { class: "figures", "aria-live": "polite" });
  const head = h("div", { class: "head", role: "row" });
  const body = h("div", { class: "body", role: "presentation" });
  const list = h("div", { class: "list", role: "grid", tabindex: "0", "aria-label": "Trajectories" }, head, body);
  const marked = h("div", { class: "marked", hidden: true });
  page.append(h("div", { class: "tools" }, input, facets), problem, figures, list, marked);

  const columns = () => {
    const values = shared.state?.facets ?? {};
    return COLUMNS.filter((c) => (!c.several || (values[c.field] ?? []).length > 1) && (!c.present || (values[c.field] ?? []).length)
      && !(c.field === "step" && !(values.step ?? []).length));
  };

  function go(newQ, newSort) {
    const target = link.table(newQ.trim(), newSort);
    if (location.hash === target) return load();
    history[location.hash.startsWith("#/trajectories") ? "replaceState" : "pushState"](null, "", target);
    filter(newQ.trim(), newSort);
  }

  function filter(newQ, newSort) {
    if (input.value.trim() !== newQ) input.value = newQ;
    q = newQ;
    sort = newSort;
    shared.table = { q, sort };
    cursor = 0;
    list.scrollTop = 0;
    load();
  }

  function load() {
    stretches = new Map();
    drawHead();
    drawFacets();
    fetchAt(0, true);
  }

  // One request at a time for each stretch; answers to an older filter are thrown away.
  async function fetchAt(start, fresh = false) {
    const mine = fresh ? ++asked : asked;
    const key = `${mine} ${start}`;
    if (underway.has(key)) return;
    underway.add(key);
    const current = () => !closed && mine === asked;
    try {
      const answer = await api("rows", { q, sort: sort || "-step", start, count: STRETCH });
      if (!current()) return;
      put(problem);
      problem.hidden = true;
      list.classList.remove("stale");
      if (answer.matched !== total) stretches = new Map();
      version = answer.version;
      total = answer.matched;
      stretches.set(start, answer.rows);
      drawFigures(answer);
      draw();
      if (answer.searched < 1) setTimeout(() => current() && fetchAt(start), 300);
    } catch (error) {
      if (!current()) return;
      if (error.status !== 400) setTimeout(() => current() && fetchAt(start), 1500);
      put(problem, error.message);
      problem.hidden = false;
      list.classList.add("stale");
    } finally {
      underway.delete(key);
      if (again && current()) {
        again = false;
        fetchInSight();
      }
    }
  }

  function fetchInSight() {
    for (const start of new Set([top, Math.min(total - 1, top + inSight())].map((n) => Math.floor(Math.max(0, n) / STRETCH) * STRETCH))) fetchAt(start);
  }

  function drawFigures(answer) {
    const f = answer.figures;
    const of = answer.matched === answer.total ? "" : ` of ${fmt(answer.total)}`;
    const item = (name, value, soft = "") => h("span", {}, h("span", { class: "soft" }, name), " ", h("b", {}, value), soft && h("span", { class: "soft" }, ` ${soft}`));
    put(figures, 
      h("span", {}, h("b", {}, fmt(answer.matched)), h("span", { class: "soft" }, `${of} ${answer.total === 1 ? "trajectory" : "trajectories"}`)),
      ...(answer.searched < 1 ? [h("span", { class: "busy" }, `searching ${Math.floor(100 * answer.searched)} %`)] : []),
      ...(f ? [
        item("success", percent(f.success), `${(100 * f.success_low).toFixed(1)}–${(100 * f.success_high).toFixed(1)}`),
        item("score", fmt(f.score, "fixed")), item("reward", fmt(f.reward, "fixed")), item("turns", f.turns.toFixed(1)),
        item("invalid", percent(f.invalid_share)),
      ] : []),
    );
  }

  function drawHead() {
    const shown = columns();
    list.style.setProperty("--columns", shown.map((c) => c.width).join(" "));
    list.style.setProperty("--narrow", shown.filter((c) => !c.extra).map((c) => c.width).join(" "));
    put(head, ...shown.map((column) => {
      const by = column.sort ?? column.field;
      const now = sort === by ? "ascending" : sort === `-${by}` ? "descending" : "none";
      const next = now === "descending" ? by : now === "ascending" ? "" : `-${by}`;
      return h("div", { role: "columnheader", "aria-sort": now, class: classes(column) },
        h("button", { onclick: () => go(q, next), title: `Sort by ${column.label.toLowerCase()}` }, column.label,
          h("span", { class: "arrow", "aria-hidden": "true" }, { ascending: "↑", descending: "↓", none: "" }[now])));
    }));
  }

  const classes = (column) => `cell${column.number ? " number" : ""}${column.extra ? " extra" : ""} c-${column.field}`;

  function drawFacets() {
    const values = shared.state?.facets ?? {};
    const menus = FACETS.filter(([field]) => (values[field] ?? []).length > 1 || (field === "error" && (values.error ?? []).length));
    put(facets, ...menus.map(([field, label]) => {
      const chosen = new RegExp(`(?:^|\\s)${field}:((?:"(?:[^"\\\\]|\\\\.)*"|[^\\s"])+)`).exec(q)?.[1];
      const options = [...values[field]].sort((a, b) => (typeof a[0] === "number" ? a[0] - b[0] : 0));
      return h("label", { class: chosen ? "on" : "" }, h("span", {}, label),
        h("select", { "aria-label": label, onchange: (event) => choose(field, event.target.value) },
          h("option", { value: "" }, "any"),
          chosen && !options.some(([value]) => quoted(String(value)) === chosen) ? h("option", { value: chosen, selected: true }, chosen) : null,
          options.map(([value, count]) => h("option", { value: quoted(String(value)), selected: quoted(String(value)) === chosen }, `${value}  (${fmt(count)})`))));
    }),
    q ? h("button", { class: "quiet", onclick: () => go("", sort) }, "Clear") : "");
  }

  function choose(field, value) {
    const rest = q.replace(new RegExp(`(^|\\s)-?${field}(?::|[<>]=?)(?:"(?:[^"\\\\]|\\\\.)*"|[^\\s"])*`, "g"), " ").replace(/\s+/g, " ").trim();
    go(value ? `${rest} ${field}:${value}`.trim() : rest, sort);
  }

  // Rows in sight.

  const height = () => Math.min(total * HEIGHT, TALLEST);
  const first = () => {
    const hidden = Math.max(1, height() - list.clientHeight + head.offsetHeight);
    return total * HEIGHT <= TALLEST ? list.scrollTop / HEIGHT : (list.scrollTop / hidden) * Math.max(0, total - inSight());
  };
  const inSight = () => Math.max(1, (list.clientHeight - head.offsetHeight) / HEIGHT);

  function draw() {
    body.style.height = `${height()}px`;
    list.setAttribute("aria-rowcount", String(total + 1));
    top = Math.floor(first());
    const shown = columns();
    const last = Math.min(total, top + Math.ceil(inSight()) + 2);
    const offset = total * HEIGHT <= TALLEST ? (n) => n * HEIGHT : (n) => list.scrollTop + (n - first()) * HEIGHT;
    const rows = [];
    for (let n = Math.max(0, top - 2); n < last; n++) {
      const start = Math.floor(n / STRETCH) * STRETCH;
      const row = stretches.get(start)?.[n - start];
      if (!row && !stretches.has(start)) fetchAt(start);
      rows.push(drawRow(row, n, offset(n), shown));
    }
    put(body, ...(total ? rows : [empty()]));
    marked.hidden = shared.chosen.size === 0;
    put(marked, 
      h("span", {}, counted(shared.chosen.size, "marked row")),
      h("a", { class: "button", href: link.beside([...shared.chosen]) }, "Side by side"),
      h("button", { class: "quiet", onclick: () => { shared.chosen.clear(); draw(); } }, "Unmark"));
  }

  function drawRow(row, n, y, shown) {
    const place = { top: `${y}px` };
    if (!row) return h("div", { class: "row waiting", role: "row", "aria-rowindex": n + 2, style: place });
    const href = link.trajectory(row.at, { q, sort });
    return h("a", {
      class: `row${n === cursor ? " cursor" : ""}${shared.chosen.has(row.at) ? " chosen" : ""}`, role: "row", "aria-rowindex": n + 2, href, style: place, tabindex: "-1",
      onclick: (event) => { if (event.shiftKey) { event.preventDefault(); mark(row.at); } else cursor = n; },
    }, shown.map((column) => h("div", { class: classes(column), role: "gridcell", title: column.number ? null : String(row[column.field]) },
      column.cell ? column.cell(row) : fmt(row[column.field]))));
  }

  function empty() {
    const state = shared.state;
    const waiting = state && state.total === 0;
    return h("div", { class: "empty" }, q
      ? [h("b", {}, "Nothing fits this filter."), h("p", {}, "Take a term out, or clear it.")]
      : waiting && state.progress < 1 ? [h("b", {}, "Reading the files…")]
      : waiting ? [h("b", {}, "No trajectories yet."), h("p", {}, "They appear here as a run writes them (trainer.save_trajectories_every).")] : "");
  }

  function mark(at) {
    shared.chosen[shared.chosen.has(at) ? "delete" : "add"](at);
    draw();
  }

  function move(to) {
    cursor = Math.max(0, Math.min(total - 1, to));
    const y = cursor * HEIGHT, seen = list.clientHeight - head.offsetHeight;
    if (total * HEIGHT <= TALLEST) {
      if (y < list.scrollTop) list.scrollTop = y;
      else if (y + HEIGHT > list.scrollTop + seen) list.scrollTop = y + HEIGHT - seen;
    } else if (cursor < first() || cursor + 1 > first() + inSight()) {
      list.scrollTop = (Math.max(0, cursor - inSight() / 2) / Math.max(1, total - inSight())) * (height() - seen);
    }
    draw();
  }

  const under = () => stretches.get(Math.floor(cursor / STRETCH) * STRETCH)?.[cursor % STRETCH];

  function key(event) {
    const page_ = Math.max(1, Math.floor(inSight()) - 1);
    const to = { j: cursor + 1, ArrowDown: cursor + 1, k: cursor - 1, ArrowUp: cursor - 1, PageDown: cursor + page_, PageUp: cursor - page_, Home: 0, End: total - 1 }[event.key];
    if (to !== undefined) move(to);
    else if (event.key === "Enter" && under()) {
      if (event.target.closest?.("button, select, a:not(.row)")) return false;
      location.hash = link.trajectory(under().at, { q, sort });
    } else if (event.key === "x" && under()) mark(under().at);
    else if (event.key === "s" && shared.chosen.size) location.hash = link.beside([...shared.chosen]);
    else if (event.key === "/") { input.focus(); input.select(); }
    else if (event.key === "Escape" && q) go("", sort);
    else return false;
    return true;
  }

  const resized = new ResizeObserver(() => draw());
  resized.observe(list);
  list.addEventListener("scroll", () => requestAnimationFrame(() => !closed && draw()), { passive: true });
  shared.table = { q, sort };
  load();

  return {
    key,
    filter,
    update() {
      // The rows in sight are fetched anew, and shown as they were until then; others when they come into sight. While
      // an answer is underway nothing more is asked: a file that is being indexed changes faster than that.
      const inView = (start) => start <= top + inSight() && top < start + STRETCH;
      stretches = new Map([...stretches].filter(([start]) => inView(start)));
      drawHead();
      if (!facets.contains(document.activeElement)) drawFacets();
      if (underway.size) again = true;
      else fetchInSight();
    },
    close() {
      closed = true;
      resized.disconnect();
      clearTimeout(timer);
    },
  };
}
