// Routes, the bar on top, keys that work everywhere, and the look at the server every two seconds.

import { about, api, exported } from "./data.js";
import { h, link, put, typing } from "./dom.js";
import { besidePage } from "./beside.js";
import { curvesPage } from "./curves.js";
import { tablePage } from "./table.js";
import { trajectoryPage } from "./trajectory.js";

const POLL = 2000;
const THEMES = ["auto", "light", "dark"];

/** What all pages share. `state` is the server's answer to /api/state; `chosen` are the rows marked with x. */
export const shared = { state: null, chosen: new Set(), table: { q: "", sort: "" } };

const bar = document.getElementById("bar");
const page = document.getElementById("page");
const notices = document.getElementById("notices");
let current = { close() {} };
let route = null;
let grown = 0;

function parseRoute() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  const parameters = new URLSearchParams(search);
  const q = parameters.get("q") ?? "", sort = parameters.get("sort") ?? "";
  if (parts[0] === "run" && parts[2] === "t") {
    const turn = parts[4] === "turn" && /^\d+$/.test(parts[5] ?? "") ? Number(parts[5]) - 1 : null;
    return { name: "trajectory", at: `${parts[1]}/${parts[3]}`, turn, q, sort };
  }
  if (parts[0] === "beside") return { name: "beside", ats: parameters.getAll("t") };
  if (parts[0] === "trajectories") return { name: "table", q, sort };
  if (parts[0] === "curves") return { name: "curves" };
  return { name: shared.state?.metrics.length ? "curves" : "table", q: "", sort: "" };
}

function show() {
  const next = parseRoute();
  // The same trajectory at another turn: the page moves there itself.
  if (route && next.name === "trajectory" && route.name === "trajectory" && next.at === route.at) {
    route = next;
    current.turn?.(next.turn);
    return;
  }
  if (route && next.name === "table" && route.name === "table") {
    route = next;
    current.filter?.(next.q, next.sort);
    return;
  }
  current.close();
  route = next;
  put(page);
  page.className = next.name;
  document.title = "turnwise";
  window.scrollTo(0, 0);
  const pages = { curves: curvesPage, table: tablePage, trajectory: trajectoryPage, beside: besidePage };
  current = pages[next.name](page, next, shared);
  drawBar();
}

function drawBar() {
  const tabs = [
    ["curves", "Curves", link.curves()],
    ["table", "Trajectories", link.table(shared.table.q, shared.table.sort)],
  ].filter(([name]) => name !== "curves" || shared.state?.metrics.length);
  const runs = shared.state?.runs ?? [];
  const progress = shared.state ? shared.state.progress : 0;
  const live = Date.now() - grown < 30000;
  put(bar, 
    h("a", { class: "brand", href: "#/" }, "turnwise"),
    h("nav", { "aria-label": "Pages" }, tabs.map(([name, label, href]) => {
      const here = route && (route.name === name || (name === "table" && route.name !== "curves"));
      return h("a", { href, "aria-current": here ? "page" : null }, label);
    })),
    h("span", { class: "what" }, runs.length === 1 ? [runs[0].name, course(runs[0])] : runs.length ? `${runs.length} runs` : ""),
    h("span", { class: "space" }),
    exported ? h("span", { class: "live still" }, `exported ${about.date}`)
      : progress < 1 ? h("span", { class: "live busy" }, h("i"), `indexing ${Math.floor(100 * progress)} %`)
      : live ? h("span", { class: "live" }, h("i"), "live") : null,
    h("button", { class: "quiet", title: "Light, dark or as the system has it (t)", onclick: nextTheme }, `${theme()}`),
    h("button", { class: "quiet key", title: "Keys (?)", "aria-label": "Keys and filters", onclick: help }, "?"),
  );
}

const course = (run) => (run.steps && run.planned && !run.ended ? `, step ${run.steps} of ${run.planned}` : "");

function notice(problems, error = "") {
  const seen = problems.slice(0, 4);
  put(notices, 
    ...(error ? [h("p", { class: "bad" }, error)] : []),
    ...seen.map((text) => h("p", {}, text)),
    ...(problems.length > seen.length ? [h("p", {}, `and ${problems.length - seen.length} more`)] : []),
  );
}

async function look() {
  try {
    const answer = await api("state", shared.state === null ? {} : { version: shared.state.version });
    const changed = shared.state === null || answer.version !== shared.state.version;
    if (changed) {
      const first = shared.state === null;
      if (!first && (answer.total > shared.state.total || answer.runs.some((r, i) => r.steps > (shared.state.runs[i]?.steps ?? 0)))
        && shared.state.progress === 1) grown = Date.now();
      shared.state = answer;
      if (first) show();
      else current.update?.();
    }
    notice(shared.state.problems);
    drawBar();
  } catch (error) {
    notice(shared.state?.problems ?? [], error.message);
  }
  if (!exported) setTimeout(look, shared.state?.progress < 1 ? 400 : document.hidden ? 5 * POLL : POLL);
}

// Theme: the system's, unless chosen otherwise.

function theme() {
  try { return localStorage.getItem("turnwise-theme") ?? "auto"; } catch { return "auto"; }
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  try { localStorage.setItem("turnwise-theme", next); } catch { /* a file without storage: the system's theme stays */ }
  applyTheme();
  drawBar();
}

function applyTheme() {
  document.documentElement.dataset.theme = theme();
}

// Help.

const KEYS = [
  ["/", "write a filter"], ["j k ↓ ↑", "next and previous row or turn"], ["enter", "open"],
  ["[ ]", "previous and next trajectory"], ["x", "mark a row, s lays the marked side by side"],
  ["p", "log-probs of the tokens"], ["s", "the group side by side"], ["esc", "back"],
  ["1 2", "curves, trajectories"], ["t", "light or dark"], ["?", "this help"],
];
const GRAMMAR = [
  ["success:no turns>5", "both hold"], ["step:20..40", "from 20 to 40"], ["env:FrozenLake-v1", "text field, * stands for any text"],
  ["status:failed,truncated", "either"], ["-task:train-*", "not"], ['"red shoes"', "in observations, actions, task, reference, error"],
];

function help() {
  const close = () => dialog.close();
  const rows = (list) => h("dl", {}, list.map(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)]));
  const dialog = h("dialog", { class: "help", "aria-label": "Keys and filters" },
    h("h2", {}, "Keys"), rows(KEYS), h("h2", {}, "Filters"), rows(GRAMMAR),
    h("p", { class: "soft" }, "Fields: ", (shared.state?.fields ?? []).join(", ")),
    h("button", { onclick: close }, "Close"));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });
  document.body.append(dialog);
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (typing(event)) {
    if (event.key === "Escape") { event.target.blur(); event.preventDefault(); }
    return;
  }
  if (current.key?.(event)) { event.preventDefault(); return; }
  const go = { 1: link.curves(), 2: link.table(shared.table.q, shared.table.sort) }[event.key];
  if (go) location.hash = go;
  else if (event.key === "?") help();
  else if (event.key === "t") nextTheme();
  else if (event.key === "/") location.hash = link.table(shared.table.q, shared.table.sort);
  else return;
  event.preventDefault();
});

applyTheme();
window.addEventListener("hashchange", show);
look();
