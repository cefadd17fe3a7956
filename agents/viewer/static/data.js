// Where the page gets its data: from the server, or from what `--export` put into the file. The filter's grammar is that
// of filters.py; here it serves the exported page.

const embedded = document.getElementById("data");
const saved = embedded ? JSON.parse(embedded.textContent) : null;

export const exported = saved !== null;
export const about = saved ? saved.about : null;

/** Ask for something. Throws an Error with the server's sentence. */
export async function api(name, parameters = {}) {
  if (saved) return local(name, parameters);
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) for (const v of [value].flat()) search.append(key, v);
  let answer;
  try {
    answer = await fetch(`/api/${name}?${search}`);
  } catch {
    throw Object.assign(new Error("The server does not answer. Is `turnwise view` still running?"), { offline: true });
  }
  const body = await answer.json().catch(() => ({ error: `The server failed (${answer.status}).` }));
  if (!answer.ok) throw Object.assign(new Error(body.error), { status: answer.status });
  return body;
}

async function local(name, p) {
  switch (name) {
    case "state":
      return saved.state;
    case "rows": {
      const rows = arranged(p.q, p.sort);
      const start = Math.min(Number(p.start), rows.length);
      return {
        version: 1, total: saved.rows.length, matched: rows.length, searched: 1, start,
        figures: figures(rows), rows: rows.slice(start, start + Number(p.count)),
      };
    }
    case "near": {
      const rows = arranged(p.q, p.sort);
      const place = rows.findIndex((row) => row.at === p.at);
      return {
        place: place < 0 ? null : place, matched: rows.length,
        previous: rows[place - 1]?.at ?? null, next: place < 0 ? null : (rows[place + 1]?.at ?? null),
      };
    }
    case "trajectory":
      if (!saved.trajectories[p.at]) throw new Error(`${p.at} is not part of this exported page.`);
      return saved.trajectories[p.at];
    case "tokens":
      return saved.tokens[`${p.at}#${p.turn}`] ?? { ids: [], log_probs: [], texts: null, reason: "not part of this exported page" };
    case "curves": {
      const wanted = [p.metric ?? []].flat();
      return { groups: saved.curves.groups, curves: Object.fromEntries(wanted.map((m) => [m, saved.curves.curves[m] ?? []])) };
    }
  }
  throw new Error(`there is nothing called ${name}`);
}

// 95 % interval of Wilson, as envs/rollout.py has it.
function wilson(successes, total) {
  const z = 1.959963984540054, p = successes / total;
  const centre = (p + (z * z) / (2 * total)) / (1 + (z * z) / total);
  const half = (z / (1 + (z * z) / total)) * Math.sqrt((p * (1 - p)) / total + (z * z) / (4 * total * total));
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}

function figures(rows) {
  const played = rows.filter((row) => row.status === "terminated" || row.status === "truncated");
  if (!played.length) return null;
  const sum = (field) => played.reduce((total, row) => total + Number(row[field]), 0);
  const [success_low, success_high] = wilson(sum("success"), played.length);
  return {
    played: played.length, success: sum("success") / played.length, success_low, success_high,
    score: sum("score") / played.length, reward: sum("reward") / played.length, turns: sum("turns") / played.length,
    invalid_share: sum("invalid") / Math.max(1, sum("turns")),
  };
}

const NUMBERS = ["step", "seed", "score", "reward", "turns", "invalid", "group", "sample"];
const NAMES = ["run", "env", "task", "split", "status", "agent", "family", "difficulty", "error", "file"];
const FIELDS = [...NUMBERS, ...NAMES, "success"];
const TERM = /(-?)(?:([A-Za-z_]+)(:|>=|<=|>|<|=))?((?:"(?:[^"\\]|\\.)*"|[^\s"])*)/g;
const VALUE = /"((?:[^"\\]|\\.)*)"|([^,"]+)/g;

const values = (text) => [...text.matchAll(VALUE)].map((m) => (m[2] === undefined ? m[1].replace(/\\(.)/g, "$1") : m[2]));

function number(field, text) {
  const value = text.trim() === "" ? NaN : Number(text);
  if (Number.isNaN(value)) throw new Error(`${field} is a number, got '${text}'`);
  return value;
}

/** A test of a row from the text of a filter. Throws an Error that says what cannot be understood. */
export function filter(text) {
  const tests = [];
  for (const [whole, minus, name, sign, value] of text.matchAll(TERM)) {
    if (!whole) continue;
    let test;
    if (name === undefined) {
      const wanted = value ? (value.includes('"') ? values(value).join(" ") : value).toLowerCase() : "-";
      test = (row) => said(row.at).includes(wanted);
      tests.push(minus && value ? (row) => !test(row) : test);
      continue;
    }
    const field = name.toLowerCase();
    if (!FIELDS.includes(field)) throw new Error(`there is no field '${field}'. Fields: ${FIELDS.join(", ")}`);
    if (!value) throw new Error(`a value is missing behind ${field}${sign}`);
    test = NUMBERS.includes(field) ? numeric(field, sign, value) : named(field, sign, value);
    tests.push(minus ? (row) => !test(row) : test);
  }
  return (row) => tests.every((test) => test(row));
}

function numeric(field, sign, value) {
  const of = (row) => (row[field] === null ? NaN : Number(row[field]));
  const limit = { ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, "<=": (a, b) => a <= b }[sign];
  if (limit) {
    const wanted = number(field, value);
    return (row) => limit(of(row), wanted);
  }
  if (value.includes("..")) {
    const cut = value.indexOf("..");
    const low = cut ? number(field, value.slice(0, cut)) : -Infinity;
    const high = cut + 2 < value.length ? number(field, value.slice(cut + 2)) : Infinity;
    return (row) => of(row) >= low && of(row) <= high;
  }
  const wanted = value.split(",").map((v) => number(field, v));
  return (row) => wanted.includes(of(row));
}

function named(field, sign, value) {
  if (sign !== ":" && sign !== "=") throw new Error(`${field} is no number; write ${field}:${value}`);
  const wanted = values(value).map((v) => v.toLowerCase());
  if (field === "success") return (row) => wanted.includes(row.success ? "yes" : "no");
  const patterns = wanted.map((v) => new RegExp(`^${v.split("*").map(escaped).join("[^]*")}$`));
  return (row) => patterns.some((pattern) => pattern.test(String(row[field]).toLowerCase()));
}

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

const texts = new Map();
function said(at) {
  if (!texts.has(at)) {
    const t = saved.trajectories[at].trajectory ?? {};
    const parts = [t.task_id, t.error, ...(t.reference ?? []), ...(t.turns ?? []).flatMap((u) => [u.observation, u.action])];
    texts.set(at, [...parts, t.final_observation].filter(Boolean).join("\n").toLowerCase());
  }
  return texts.get(at);
}

function arranged(q, sort) {
  const rows = saved.rows.filter(filter(q ?? ""));
  if (!sort) return rows;
  const field = sort.replace(/^-/, ""), turn = sort.startsWith("-") ? -1 : 1;
  if (!FIELDS.includes(field)) throw new Error(`there is no field '${field}' to sort by`);
  const of = (row) => (row[field] === null ? -1 : NAMES.includes(field) ? row[field] : Number(row[field]));
  return rows.sort((a, b) => (of(a) < of(b) ? -turn : of(a) > of(b) ? turn : 0));
}
