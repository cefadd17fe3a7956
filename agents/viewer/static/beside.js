// Trajectories side by side. Turns that start from the same state stand on one line where that is possible, and lines join
// them: they are the anchors that step-level credit compares.

import { api } from "./data.js";
import { badge, counted, fmt, h, link, put, s } from "./dom.js";
import { picture } from "./pictures.js";
import { bar, call, measures } from "./trajectory.js";

const MOST = 16;

/** Rows for columns of keys: `rows[r][c]` is the number of the turn of column c that stands on row r, or null. */
export function align(columns) {
  let rows = []; // {keys: Set, cells: []}
  columns.forEach((keys, c) => {
    const n = rows.length, m = keys.length;
    // The longest common subsequence of what stands there and this column.
    const length = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
    for (let i = n - 1; i >= 0; i--) {
      for (let j = m - 1; j >= 0; j--) {
        length[i][j] = keys[j] !== "" && rows[i].keys.has(keys[j]) ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
      }
    }
    const merged = [];
    const place = (row, j) => { row.cells[c] = j; if (keys[j] !== "") row.keys.add(keys[j]); merged.push(row); };
    const fresh = () => ({ keys: new Set(), cells: [] });
    let i = 0, j = 0;
    const between = (toI, toJ) => { // turns without a match take the rows between two matches, then new ones
      while (i < toI || j < toJ) {
        const row = i < toI ? rows[i++] : fresh();
        if (j < toJ) place(row, j++);
        else merged.push(row);
      }
    };
    const matches = [];
    for (let a = 0, b = 0; a < n && b < m;) {
      if (keys[b] !== "" && rows[a].keys.has(keys[b])) matches.push([a++, b++]);
      else if (length[a + 1][b] >= length[a][b + 1]) a++;
      else b++;
    }
    for (const [a, b] of matches) {
      between(a, b);
      place(rows[i++], j++);
    }
    between(n, m);
    rows = merged;
  });
  return rows.map((row) => columns.map((_, c) => row.cells[c] ?? null));
}

export function besidePage(page, { ats }, shared) {
  let closed = false, leaving = false, cursor = [0, 0], cells = [];
  const asked = [...new Set(ats)];
  const shown = asked.slice(0, MOST);
  const content = h("div", { class: "content wide" }, h("p", { class: "soft wait" }, "Reading…"));
  page.append(h("div", { class: "top" }, h("a", { href: link.table(shared.table.q, shared.table.sort), class: "back" }, "← Trajectories")), content);
  Promise.all(shown.map((at) => api("trajectory", { at }).catch((error) => ({ at, row: null, trajectory: null, problem: error.message }))))
    .then((answers) => { if (!closed) draw(answers); });
  const resized = new ResizeObserver(() => joined());
  let board = null, named = [], anchors = new Map();

  function draw(answers) {
    if (!answers.length) {
      put(content, h("div", { class: "empty" }, h("b", {}, "Nothing is marked."), h("p", {}, "Mark rows of the table with x, or choose “Side by side” in a trajectory.")));
      return;
    }
    const readable = answers.filter((a) => a.trajectory);
    named = readable.map((a) => a.row);
    const turns = readable.map((a) => a.trajectory.turns);
    const tasks = new Set(readable.map((a) => a.row.task));
    // State keys say something about one task only.
    const keys = readable.map((a, c) => turns[c].map((turn) => (turn.state_key ? `${a.row.env}\n${a.row.task}\n${turn.state_key}` : "")));
    const rows = align(keys);
    const times = new Map();
    keys.forEach((column) => new Set(column).forEach((key) => key && times.set(key, (times.get(key) ?? 0) + 1)));
    anchors = new Map([...times].filter(([, count]) => count > 1).map(([key], n) => [key, { name: letter(n), hue: n % 6, cells: [] }]));
    const list = measures(turns.flat());
    cells = readable.map(() => []);
    const grid = h("div", { class: "board", role: "grid", "aria-label": "Turns side by side", style: { "--n": String(readable.length) } },
      readable.map((a, c) => h("div", { class: "column-head", style: { gridColumn: String(c + 1), gridRow: "1" } },
        h("a", { href: link.trajectory(a.at), title: a.at }, place(a.row)), badge(a.row),
        h("span", { class: "soft" }, `score ${fmt(a.row.score, "fixed")} · ${counted(a.row.turns, "turn")}`))),
      rows.map((row, r) => row.map((n, c) => {
        if (n === null) return "";
        const turn = turns[c][n], anchor = anchors.get(keys[c][n]);
        const cell = h("a", {
          class: `cell-turn${turn.invalid ? " invalid" : ""}${anchor ? ` anchor a${anchor.hue + 1}` : ""}`, role: "gridcell", tabindex: "-1",
          href: link.trajectory(readable[c].at, { turn: n }), style: { gridColumn: String(c + 1), gridRow: String(r + 2) },
        },
          h("div", { class: "cell-top" }, h("span", { class: "soft" }, n + 1), anchor ? h("span", { class: "anchor-name", title: `The same state: ${turn.state_key}` }, anchor.name) : "",
            turn.invalid ? h("span", { class: "bad" }, "invalid") : ""),
          picture(turn.picture, `The state before turn ${n + 1}`) ?? h("pre", { class: "peek" }, turn.observation),
          h("code", { class: "peek" }, call(turn) ?? turn.action),
          list.filter((m) => m.name !== "surprise").map((m) => bar(m, turn)));
        cells[c][n] = cell;
        anchor?.cells.push(cell);
        return cell;
      })),
      readable.map((a, c) => h("div", { class: "column-end soft", style: { gridColumn: String(c + 1), gridRow: String(rows.length + 2) } }, a.trajectory.final_observation)),
      s("svg", { class: "joins", "aria-hidden": "true" }));
    board = grid;
    const one = tasks.size === 1;
    put(content, 
      h("h1", {}, one ? [[...tasks][0], h("span", { class: "soft where" }, [differ("run") ? "" : named[0].run, differ("step") || named[0].step === null ? "" : `step ${named[0].step}`].filter(Boolean).join(", "))] : `${readable.length} trajectories`),
      h("p", { class: "soft" }, one ? `${readable.filter((a) => a.row.success).length} of ${readable.length} solved it. ` : "These are of several tasks, whose states are not compared. ",
        anchors.size ? `${anchors.size === 1 ? "One state was" : `${anchors.size} states were`} met by more than one of them: turns that start there bear the same letter, and lines join them.` : "No state was met by two of them."),
      asked.length > MOST ? h("p", { class: "note" }, `The first ${MOST} of ${asked.length} are shown.`) : "",
      answers.filter((a) => !a.trajectory).map((a) => h("p", { class: "note bad" }, `${a.at}: ${a.problem}`)),
      h("div", { class: "scroll" }, grid));
    resized.observe(grid);
    document.title = "Side by side · turnwise";
    joined();
  }

  // What tells a column from the others.
  const differ = (field) => new Set(named.map((row) => row[field])).size > 1;
  const file = (at) => at.slice(at.lastIndexOf("/") + 1).replace(/:\d+$/, "");
  const place = (row) => [
    differ("run") ? row.run : "",
    row.step !== null ? (differ("step") ? `step ${row.step}` : "") : new Set(named.map((r) => file(r.at))).size > 1 ? file(row.at) : "",
    differ("task") || differ("group") ? `${row.task} ` : "", `sample ${row.sample}`,
  ].filter(Boolean).join(" · ");
  const letter = (n) => (n < 26 ? String.fromCharCode(97 + n) : `${String.fromCharCode(97 + (n % 26))}${Math.floor(n / 26)}`);

  // Lines from each anchor to the next column that meets it.
  function joined() {
    if (!board) return;
    const drawing = board.querySelector(".joins");
    const base = board.getBoundingClientRect();
    drawing.setAttribute("viewBox", `0 0 ${board.scrollWidth} ${board.scrollHeight}`);
    put(drawing);
    for (const { hue, cells: met } of anchors.values()) {
      const byColumn = [...met].map((cell) => [Number(cell.style.gridColumnStart), cell.getBoundingClientRect()]).sort((a, b) => a[0] - b[0] || a[1].top - b[1].top);
      for (let n = 1; n < byColumn.length; n++) {
        const [c, right] = byColumn[n];
        const [b, left] = byColumn[n - 1];
        if (c === b) continue;
        const x1 = left.right - base.left, x2 = right.left - base.left, y1 = left.top - base.top + 18, y2 = right.top - base.top + 18;
        const bend = Math.min(24, (x2 - x1) / 2);
        drawing.append(s("path", { class: `join a${hue + 1}`, d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` }));
      }
    }
  }

  function move(c, n) {
    c = Math.max(0, Math.min(cells.length - 1, c));
    if (!cells[c]?.length) return;
    cursor = [c, Math.max(0, Math.min(cells[c].length - 1, n))];
    cells[cursor[0]][cursor[1]].focus();
  }

  return {
    key(event) {
      const [c, n] = cursor;
      const to = { j: [c, n + 1], ArrowDown: [c, n + 1], k: [c, n - 1], ArrowUp: [c, n - 1], h: [c - 1, n], ArrowLeft: [c - 1, n], l: [c + 1, n], ArrowRight: [c + 1, n] }[event.key];
      if (to) move(...to);
      else if (event.key === "Escape") {
        if (history.length > 1 && !leaving) history.back();
        else if (!leaving) location.hash = link.table();
        leaving = true; // going back takes a moment
      }
      else return false;
      return true;
    },
    close() { closed = true; resized.disconnect(); },
  };
}
