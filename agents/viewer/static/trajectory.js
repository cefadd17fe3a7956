// A trajectory as a conversation, with what each turn was paid beside it.

import { api } from "./data.js";
import { badge, counted, ending, fmt, h, link, put, quoted, s } from "./dom.js";
import { picture } from "./pictures.js";

const SOURCE_COLOURS = ["c1", "c4", "c2", "c6"];

/** The figures of a turn that are drawn as bars: rewards by source, then advantage and surprise where they are known. */
export function measures(turns) {
  const sources = new Map();
  for (const turn of turns) {
    const given = Object.keys(turn.rewards ?? {}).length ? turn.rewards : { reward: turn.reward ?? 0 };
    for (const name of Object.keys(given)) sources.set(name, true);
  }
  const list = [...sources.keys()].map((name, n) => ({
    name, about: `reward from ${name}`, colour: SOURCE_COLOURS[n % SOURCE_COLOURS.length],
    of: (turn) => (name === "reward" && !Object.keys(turn.rewards ?? {}).length ? turn.reward : turn.rewards?.[name]) ?? null,
  }));
  list.push({ name: "advantage", about: "credit that training gave this turn", colour: "sign", of: (turn) => turn.advantage ?? null });
  list.push({ name: "surprise", about: "mean of -log p over the action's tokens, in nats: an estimate of the entropy", colour: "c5", of: surprise });
  return list.filter((m) => turns.some((turn) => m.of(turn) !== null)).map((m) => {
    const values = turns.map(m.of).filter((v) => v !== null);
    return { ...m, low: Math.min(0, ...values), high: Math.max(0, ...values) };
  });
}

export function surprise(turn) {
  const logs = turn.action_log_probs ?? [];
  const known = logs.filter((v) => v !== null);
  return known.length ? -known.reduce((a, b) => a + b, 0) / known.length : null;
}

export function call(turn) {
  if (!turn.tool) return null;
  const given = turn.arguments;
  const text = given ? Object.entries(given).map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(", ") : "…";
  return `${turn.tool}(${text})`;
}

export function trajectoryPage(page, route, shared) {
  const { at, q, sort } = route;
  let closed = false, cursor = -1, near = null, all = null, blocks = [];
  const top = h("div", { class: "top" });
  const content = h("div", { class: "content" }, h("p", { class: "soft wait" }, "Reading…"));
  page.append(top, content);

  api("trajectory", { at }).then((answer) => { if (!closed) { all = answer; draw(); } }, failed);
  findNear();

  function failed(error) {
    if (closed) return;
    put(content, h("div", { class: "empty" }, h("b", {}, "This trajectory cannot be shown."), h("p", {}, error.message),
      h("p", {}, h("a", { href: link.table(q, sort) }, "Back to the table"))));
    // While the files are being indexed, or a run is being written, it may still come.
    if (error.status === 404 && shared.state?.progress < 1) setTimeout(() => !closed && api("trajectory", { at }).then((a) => { all = a; draw(); }, failed), 500);
  }

  function findNear() {
    api("near", { q, sort: sort || "-step", at }).then((answer) => { if (!closed) { near = answer; drawTop(); } }, () => {});
  }

  function drawTop() {
    const step = (name, label, where) => (where
      ? h("a", { class: "button", href: link.trajectory(where, { q, sort }), rel: name, title: `${label} (${name === "prev" ? "[" : "]"})` }, label)
      : h("span", { class: "button off" }, label));
    put(top, 
      h("a", { href: link.table(q, sort), class: "back" }, "← Trajectories"),
      q ? h("span", { class: "soft query" }, q) : "",
      h("span", { class: "space" }),
      near && near.place !== null ? h("span", { class: "soft" }, `${fmt(near.place + 1)} of ${fmt(near.matched)}`) : "",
      near ? step("prev", "Previous", near.previous) : "", near ? step("next", "Next", near.next) : "");
  }

  function draw() {
    const { row, trajectory: t, problem } = all;
    document.title = `${row.task || at} · turnwise`;
    if (!t) {
      put(content, h("div", { class: "empty" }, h("b", {}, "This line cannot be read."), h("p", {}, problem), h("p", { class: "soft" }, at)));
      return;
    }
    const turns = t.turns;
    const list = measures(turns);
    blocks = turns.map((turn, n) => drawTurn(turn, n, list));
    const end = drawEnd(t, turns.length);
    put(content, 
      problem ? h("p", { class: "note bad" }, problem) : "",
      h("h1", {}, row.task || "(no task)", " ", badge(row)),
      facts(row, t),
      related(),
      turns.length ? strip(turns, list) : "",
      t.system ? folded("System prompt and tools", t.system) : "",
      Object.keys(t.env_kwargs ?? {}).length ? folded("Parameters of the environment", JSON.stringify(t.env_kwargs, null, 2)) : "",
      h("div", { class: "turns" }, blocks, end));
    if (route.turn !== null) moveTo(route.turn, false);
  }

  function facts(row, t) {
    const fact = (name, ...value) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value));
    const filterLink = (field, value) => h("a", { href: link.table(`${field}:${quoted(String(value))}`) }, String(value));
    return h("dl", { class: "facts" },
      fact("Score", fmt(row.score, "fixed")), fact("Reward", fmt(row.reward, "fixed")), fact("Turns", fmt(row.turns)),
      fact("Invalid", fmt(row.invalid)), row.step === null ? "" : fact("Step", filterLink("step", row.step)),
      fact("Environment", filterLink("env", row.env)), t.split ? fact("Split", t.split) : "", fact("Seed", String(row.seed)),
      t.difficulty ? fact("Difficulty", filterLink("difficulty", t.difficulty)) : "", t.family ? fact("Family", filterLink("family", t.family)) : "",
      fact("Run", filterLink("run", row.run)), t.agent ? fact("Agent", h("span", { title: t.agent, class: "clip" }, t.agent.replace(/^(local:).*\//, "$1…/"))) : "",
      (t.attempts ?? 1) > 1 ? fact("Attempts", fmt(t.attempts)) : "",
      t.reference ? fact("Reference", t.reference.join(" · ")) : "",
      t.error ? fact("Error", h("span", { class: "bad" }, t.error)) : "");
  }

  function related() {
    const { group, elsewhere } = all;
    if (group.length < 2 && !elsewhere.length) return "";
    const square = (row, label) => h("a", {
      class: `square ${ending(row)[1]}${row.at === at ? " here" : ""}`, href: link.trajectory(row.at, { q, sort }),
      title: `${label}: ${ending(row)[0]}, score ${fmt(row.score)}, ${counted(row.turns, "turn")}`, "aria-current": row.at === at ? "true" : null,
    }, label);
    const places = new Map();
    for (const row of elsewhere) {
      const name = `${shared.state && shared.state.runs.length > 1 ? `${row.run} ` : ""}${row.step === null ? row.at.slice(row.at.lastIndexOf("/") + 1).replace(/:\d+$/, "") : `step ${row.step}`}`;
      places.set(name, [...(places.get(name) ?? []), row]);
    }
    return h("div", { class: "related" },
      group.length > 1 ? h("div", {}, h("span", { class: "soft" }, "Group"), group.map((row) => square(row, String(row.sample))),
        h("a", { class: "button", href: link.beside(group.map((row) => row.at)), title: "Side by side (s)" }, "Side by side")) : "",
      [...places].map(([name, rows]) => h("div", {}, h("span", { class: "soft" }, `Same task, ${name}`), rows.map((row) => square(row, String(row.sample))),
        h("a", { class: "button", href: link.beside([at, ...rows.slice(0, 7).map((row) => row.at)]) }, "Compare"))));
  }

  // The strip: one column per turn, one line of bars per figure.
  function strip(turns, list) {
    const column = Math.max(7, Math.min(44, Math.floor(720 / turns.length))), line = 26, left = 84;
    const width = left + turns.length * column, height = list.length * line + 18;
    const all_ = s("svg", { class: "strip-chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": "Rewards and credit by turn" });
    list.forEach((m, y) => {
      const span = m.high - m.low || 1, room = line - 6, zero = y * line + 3 + (m.high / span) * room;
      all_.append(s("text", { x: left - 8, y: y * line + line / 2, class: "strip-name" }, m.name));
      all_.append(s("line", { x1: left, x2: width, y1: zero, y2: zero, class: "axis" }));
      turns.forEach((turn, n) => {
        const value = m.of(turn);
        if (value === null || value === 0) return;
        const size = Math.max(1, (Math.abs(value) / span) * room);
        all_.append(s("rect", { x: left + n * column + column * 0.14, width: column * 0.72, y: value > 0 ? zero - size : zero, height: size, rx: 1, class: colourOf(m, value) }));
      });
    });
    const every = Math.ceil(24 / column);
    turns.forEach((turn, n) => {
      if (n % every === 0) all_.append(s("text", { x: left + (n + 0.5) * column, y: height - 4, class: `strip-number${turn.invalid ? " bad" : ""}` }, n + 1));
      all_.append(s("a", { href: link.trajectory(at, { q, sort, turn: n }), "aria-label": `Turn ${n + 1}` },
        s("rect", { x: left + n * column, width: column, y: 0, height, class: "strip-hit", "data-turn": n },
          s("title", {}, [`turn ${n + 1}${turn.invalid ? " (invalid)" : ""}`, ...list.map((m) => `${m.name} ${fmt(m.of(turn), 3)}`)].join("\n")))));
    });
    return h("div", { class: "strip" }, all_);
  }

  function drawTurn(turn, n, list) {
    const action = h("pre", { class: "text" }, turn.action);
    const heat = h("div", { class: "heat", hidden: true });
    const probabilities = (turn.action_log_probs ?? []).length > 0;
    const button = probabilities ? h("button", { class: "quiet small", "aria-expanded": "false", onclick: () => toggle() }, "log-probs") : null;
    let shown = false;

    async function toggle(on = !shown) {
      shown = on;
      if (!button) return;
      button.setAttribute("aria-expanded", String(on));
      heat.hidden = !on;
      action.hidden = on;
      if (on && !heat.childNodes.length) {
        heat.append(h("span", { class: "soft" }, "Reading…"));
        let answer;
        try { answer = await api("tokens", { at, turn: n }); } catch (error) { answer = { ids: turn.action_ids, log_probs: turn.action_log_probs, texts: null, reason: error.message }; }
        put(heat, ...drawTokens(answer));
      }
    }

    const image = picture(turn.picture, `The state before turn ${n + 1}`);
    const seconds = [turn.agent_seconds ? `agent ${duration(turn.agent_seconds)}` : "", turn.env_seconds ? `env ${duration(turn.env_seconds)}` : ""].filter(Boolean);
    const tokens = [turn.input_tokens ? `${fmt(turn.input_tokens)} in` : "", turn.output_tokens ? `${fmt(turn.output_tokens)} out` : ""].filter(Boolean);
    const block = h("section", { class: `turn${turn.invalid ? " invalid" : ""}`, id: `turn-${n + 1}`, "aria-label": `Turn ${n + 1}` },
      h("a", { class: "count", href: link.trajectory(at, { q, sort, turn: n }), title: "Link to this turn" }, n + 1),
      h("div", { class: "said" },
        h("div", { class: "observation" }, image, turn.picture?.kind === "page"
          ? h("details", { class: "as-read" }, h("summary", {}, "as the agent read it"), h("pre", { class: "text" }, turn.observation))
          : h("pre", { class: "text" }, turn.observation)),
        h("div", { class: "action" },
          h("div", { class: "call" },
            call(turn) ? h("code", {}, call(turn)) : h("span", { class: "soft" }, "no call"),
            turn.invalid ? h("span", { class: "badge bad" }, h("i"), "invalid") : "", h("span", { class: "space" }), button),
          action, heat)),
      h("div", { class: "beside-turn" },
        list.map((m) => bar(m, turn)),
        h("p", { class: "soft line" }, [...tokens, ...seconds].join(" · ")),
        turn.state_key ? h("p", { class: "soft line key", title: `State key: ${turn.state_key}` }, turn.state_key) : ""));
    block.toggle = toggle;
    return block;
  }

  function drawEnd(t, count) {
    const image = picture(t.final_picture, "The last state");
    return h("section", { class: "turn end" }, h("span", { class: "count" }, "■"),
      h("div", { class: "said" }, h("div", { class: "observation" }, image, h("pre", { class: "text" }, t.final_observation || (count ? "" : "No turn was played."))),
        t.error ? h("p", { class: "bad" }, t.error) : ""),
      h("div", { class: "beside-turn" }, badge(all.row)));
  }

  function drawTokens({ ids, log_probs, texts, reason }) {
    const low = Math.min(...log_probs.map((v) => v ?? 0));
    const parts = ids.map((id, n) => {
      const log = log_probs[n] ?? null;
      const text = texts ? texts[n] : String(id);
      const weight = log === null ? 0 : Math.min(1, -log / 4);
      const visible = texts ? text.replace(/\n/g, "⏎\n").replace(/^ | $/g, "·") : text;
      return h("span", { class: `token${texts ? "" : " number"}`, style: { "--heat": `${Math.round(92 * Math.sqrt(weight))}%` }, tabindex: "0",
        title: `${JSON.stringify(text)}  id ${id}\nlog p ${fmt(log, 3)}   p ${log === null ? "–" : fmt(Math.exp(log), 3)}` }, visible || "∅");
    });
    return [
      h("div", { class: "tokens" }, parts),
      h("p", { class: "legend soft" }, "certain ", h("span", { class: "ramp" }), " surprising",
        h("span", { class: "space" }), `${counted(ids.length, "token")}, lowest log p ${fmt(low, 2)}`),
      reason ? h("p", { class: "soft" }, reason) : ""];
  }

  function moveTo(n, smooth = true) {
    if (!blocks.length) return;
    cursor = Math.max(0, Math.min(blocks.length - 1, n));
    blocks.forEach((block, i) => block.classList.toggle("cursor", i === cursor));
    blocks[cursor].scrollIntoView({ block: "start", behavior: smooth && !matchMedia("(prefers-reduced-motion: reduce)").matches ? "smooth" : "auto" });
    history.replaceState(null, "", link.trajectory(at, { q, sort, turn: cursor }));
    page.querySelectorAll(".strip-hit").forEach((hit, i) => hit.classList.toggle("cursor", i === cursor));
  }

  drawTop();
  return {
    turn(n) { if (n !== null) moveTo(n); },
    update() { findNear(); },
    key(event) {
      if (event.key === "j" || event.key === "ArrowDown") moveTo(cursor + 1, false);
      else if (event.key === "k" || event.key === "ArrowUp") moveTo(cursor - 1, false);
      else if (event.key === "]" && near?.next) location.hash = link.trajectory(near.next, { q, sort });
      else if (event.key === "[" && near?.previous) location.hash = link.trajectory(near.previous, { q, sort });
      else if (event.key === "Escape") location.hash = link.table(q, sort);
      else if (event.key === "p" && blocks.length) {
        const on = cursor < 0 ? blocks : [blocks[cursor]];
        for (const block of on) block.toggle();
      } else if (event.key === "s" && all?.group.length > 1) location.hash = link.beside(all.group.map((row) => row.at));
      else return false;
      return true;
    },
    close() { closed = true; },
  };
}

export const colourOf = (m, value) => (m.colour === "sign" ? (value < 0 ? "minus" : "plus") : m.colour);

/** A figure as name, bar and number; the bar's scale is that of the whole trajectory. */
export function bar(m, turn) {
  const value = m.of(turn);
  const span = m.high - m.low || 1;
  const start = value === null ? 0 : ((Math.min(0, value) - m.low) / span) * 100;
  return h("div", { class: "measure", title: m.about }, h("span", { class: "name" }, m.name),
    h("span", { class: "scale", "aria-hidden": "true" },
      m.low < 0 ? h("i", { class: "zero", style: { left: `${(-m.low / span) * 100}%` } }) : "",
      value ? h("i", { class: colourOf(m, value), style: { left: `${start}%`, width: `${Math.max(1, (Math.abs(value) / span) * 100)}%` } }) : ""),
    h("span", { class: "value" }, value === null ? "–" : signed(m, value)));
}

const signed = (m, value) => (m.colour === "sign" && value > 0 ? "+" : "") + fmt(value, "fixed");
const duration = (seconds) => (seconds < 0.001 ? `${Math.round(seconds * 1e6)} µs` : seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);
const folded = (title, text) => h("details", { class: "folded" }, h("summary", {}, title), h("pre", { class: "text" }, text));
