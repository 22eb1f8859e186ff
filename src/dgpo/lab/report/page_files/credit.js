/* What a token can be coloured by: name, what it means, where its middle is (null: from 0 up), how it is read. */
const MEASURES = {
  w: ["w", "weight: the token's share of the advantage, 1 = even", 1, (c, i) => c.w[i]],
  d: ["d", "squared Hellinger distance between policy and reference", null, (c, i) => c.d[i]],
  h: ["h", "entropy of the policy, as a share of log V", null, (c, i) => c.h[i]],
  s: ["s", "score d · h^κ, which the weights are made of", null, (c, i) => c.s[i]],
  a: ["A·w", "advantage of the token", 0, (c, i) => (c.a === null || c.w[i] === null ? null : c.a * c.w[i])],
  r: ["log-ratio", "log p(policy) − log p(reference) of the token", 0, (c, i) => c.r[i]],
};
const BESIDE = "beside", MOST_BESIDE = 4;
const FIRST_TOKENS = 600, MORE_TOKENS = 4000, FIRST_CARDS = 10;
const state = { run: 0, by: "w", step: "all", reward: "all", order: "logged", search: "", numbers: false, cards: FIRST_CARDS };
let shown = [];  // {completion, spans} of the cards on the page
let reach = {};  // scale of each measure

const logged = () => DATA.runs.flatMap((run, index) => (run.credit.length ? [index] : []));
/* Indices of the runs whose completions are on the page. */
const runsShown = () => (state.run === BESIDE ? logged().slice(0, MOST_BESIDE) : [Number(state.run)]);
const stepsShown = () => runsShown().flatMap((index) => DATA.runs[index].credit);

/* Characters that cannot be seen, or that would move others, get a sign: by code points (u), since tags and variation
   selectors lie beyond the first plane. U+FE0F, which turns a sign into an emoji, belongs where it stands. */
const UNSEEN = /(?!\ufe0f)[\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cf}\p{Zs}\p{Zl}\p{Zp}\ufff0-\ufffb]/u;
function sign(char) {
  const code = char.codePointAt(0);
  if (char === "\n") return "↵";
  if (char === "\t") return "⇥";
  if (char === "\r") return "␍";
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "␡";
  return "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}
function visible(text) {
  if (text === "") return [el("span", { class: "ctl", text: "◦", "data-part": "" })];
  const parts = [];
  let plain = "";
  for (const char of text) {
    // A zero-width joiner inside of an emoji belongs there.
    const joins = char === "\u200d" && /\p{Extended_Pictographic}/u.test(text);
    if (char === " " || !UNSEEN.test(char) || joins) { plain += char; continue; }
    if (plain) parts.push(plain);
    plain = "";
    parts.push(el("span", { class: "ctl", text: sign(char) }));
  }
  if (plain) parts.push(plain);
  return parts;
}

/* By characters, so that none is cut in half. */
const shortened = (text, most = 120) => (text.length <= most ? text : [...text].slice(0, most).join("") + "…");

function scales() {
  const lists = {};
  for (const name of Object.keys(MEASURES)) lists[name] = [];
  for (const step of stepsShown()) for (const c of step.completions) {
    const stride = Math.max(1, Math.floor(c.tokens.length / 4000));
    for (const [name, [, , middle, read]] of Object.entries(MEASURES)) for (let i = 0; i < c.tokens.length; i += stride) {
      const value = read(c, i);
      if (value !== null) lists[name].push(name === "w" ? Math.abs(Math.log(Math.max(value, 1e-6))) : Math.abs(value - (middle || 0)));
    }
  }
  reach = {};
  for (const [name, list] of Object.entries(lists)) {
    list.sort((a, b) => a - b);
    // The strongest colour from the 99.5 % point on: one extreme token must not pale all others.
    const top = list.length ? list[Math.min(list.length - 1, Math.floor(0.995 * list.length))] || list[list.length - 1] : 0;
    reach[name] = Math.max(top, name === "w" ? Math.log(1.001) : 1e-9);
  }
}
/* From -1 to 1: how far a value is from the middle of its scale. */
function place(name, value) {
  if (value === null || value === undefined) return 0;
  const middle = MEASURES[name][2];
  const far = name === "w" ? Math.log(Math.max(value, 1e-6)) : value - (middle || 0);
  return Math.max(-1, Math.min(1, far / reach[name]));
}
function paint(node, name, t) {
  const hue = MEASURES[name][2] === null ? "--seq" : t < 0 ? "--less" : "--more";
  const size = Math.abs(t);
  node.style.backgroundColor = size < 0.02 ? "transparent" : `rgba(var(${hue}), calc(${(0.04 + 0.96 * size).toFixed(3)} * var(--strength)))`;
  // Not by colour alone: a solid bar below for more, dots for less, thicker the further.
  node.style.borderBottom = size < 0.12 ? "" : `${1 + Math.round(2 * size)}px ${t < 0 ? "dotted" : "solid"} rgb(var(${hue}))`;
}

function drawLegend() {
  const [name, meaning, middle] = MEASURES[state.by];
  const far = reach[state.by];
  const value = (t) => (state.by === "w" ? Math.exp(t * far) : (middle || 0) + t * far);
  const stops = middle === null ? [0, 0.25, 0.5, 0.75, 1] : [-1, -0.5, 0, 0.5, 1];
  const scale = el("span", { class: "scale", "aria-hidden": "true" });
  for (const t of stops) {
    const digits = state.by === "w" && far < 0.1 ? 4 : 3;
    const edge = Math.abs(t) === 1 ? (t < 0 ? "≤ " : "≥ ") : "";
    const stop = el("span", { text: edge + number(value(t), digits) });
    paint(stop, state.by, t);
    scale.append(stop);
  }
  $("legend").replaceChildren(el("span", {}, el("b", { text: name }), ` — ${meaning}`), scale);
  if (state.by === "w" && far < Math.log(1.05)) {
    $("legend").append(el("span", { text: `The scale is stretched: nearly all weights lie within ${number(100 * (Math.exp(far) - 1), 2)} % of 1.` }));
  }
}

function chosen(run) {
  const found = [];
  const query = state.search.toLowerCase();
  for (const step of DATA.runs[run].credit) {
    if (state.step !== "all" && step.step !== Number(state.step)) continue;
    for (const completion of step.completions) {
      const [low, high] = state.reward === "all" ? [null, null] : state.reward.split("|").map(Number);
      if (low !== null && !(completion.reward !== null && completion.reward >= low && completion.reward <= high)) continue;
      if (query && !(completion.prompt + completion.tokens.join("")).toLowerCase().includes(query)) continue;
      found.push({ step: step.step, completion });
    }
  }
  const share = (item) => (item.completion.share === null ? 2 : item.completion.share);
  const orders = { share: (a, b) => share(a) - share(b), high: (a, b) => b.completion.a - a.completion.a, low: (a, b) => a.completion.a - b.completion.a, newest: (a, b) => b.step - a.step };
  return orders[state.order] ? found.sort(orders[state.order]) : found;
}

/* Rows of a table with a column a run: the same step and prompt side by side where there are such, then the rest. */
function rowsBeside(lists) {
  const rest = lists.slice(1).map((list) => [...list]);
  const rows = lists[0].map((item) => [item, ...rest.map((list) => {
    const at = list.findIndex((other) => other.step === item.step && other.completion.prompt === item.completion.prompt);
    return at < 0 ? null : list.splice(at, 1)[0];
  })]);
  rest.forEach((list, column) => {
    for (const row of rows) if (row[column + 1] === null && list.length) row[column + 1] = list.shift();
    for (const item of list) rows.push(lists.map((_, index) => (index === column + 1 ? item : null)));
  });
  return rows;
}

function drawCards() {
  const runs = runsShown(), rows = rowsBeside(runs.map(chosen));
  hideTip();
  shown = [];
  const cards = rows.slice(0, state.cards).flatMap((row) => row.map((item) => (item ? makeCard(item) : el("div"))));
  if (runs.length > 1) cards.unshift(...runs.map((index) => el("h3", { class: "run" }, swatch(index), DATA.runs[index].name)));
  if (!rows.length) cards.push(el("p", { class: "nothing", text: "No completion fits these filters." }));
  if (rows.length > state.cards) {
    const what = runs.length > 1 ? "rows" : "completions";
    const more = el("button", { type: "button", class: "wide", text: `Show ${Math.min(FIRST_CARDS, rows.length - state.cards)} more of ${rows.length} ${what}` });
    more.addEventListener("click", () => { state.cards += FIRST_CARDS; drawCards(); });
    cards.push(more);
  }
  $("cards").replaceChildren(...cards);
  $("cards").className = `cards${state.numbers ? " numbers" : ""}${runs.length > 1 ? ` beside-${runs.length}` : ""}`;
  $("columns").classList.toggle("beside", runs.length > 1);
}

function makeCard({ step, completion: c }) {
  const fact = (label, value) => el("span", {}, label + " ", el("b", { text: value }));
  const meta = el("div", { class: "meta" });
  if (DATA.kind !== "inspect") meta.append(fact("step", step));
  if (c.reward !== null) meta.append(fact("reward", number(c.reward)));
  if (c.rewards.length > 1) for (const [name, value] of c.rewards) meta.append(fact(name, number(value)));
  if (c.a !== null) meta.append(fact("advantage", (c.a > 0 ? "+" : "") + number(c.a)));
  if (c.share !== null) meta.append(fact("effective share", number(c.share, 4)));
  meta.append(fact("tokens", c.n.toLocaleString("en")));
  if (c.cut) meta.append(el("b", { text: "cut off" }));
  if (c.a === 0) meta.append(el("span", { text: "no signal: advantage 0" }));
  const tokens = el("div", { class: "tokens", dir: "auto", role: "group", "aria-label": "Completion: arrow keys go from token to token" });
  const entry = { completion: c, spans: [], tokens };
  shown.push(entry);
  const prompt = el("div", { class: "prompt", dir: "auto" }, ...promptParts(c.prompt));
  const card = el("article", { class: "card" }, meta, prompt, tokens);
  addTokens(entry, FIRST_TOKENS, card);
  return card;
}
function promptParts(text) {
  return text.split("\n").flatMap((line, index) => (index ? ["\n"] : []).concat(line ? visible(line) : []));
}

function addTokens(entry, count, card) {
  const { completion: c, spans, tokens } = entry;
  const first = spans.length, end = Math.min(c.tokens.length, first + count);
  const fragment = document.createDocumentFragment();
  for (let i = first; i < end; i++) {
    const span = el("span", { class: c.w[i] === null ? "t off" : "t", tabindex: i === 0 ? 0 : -1 }, ...visible(c.tokens[i]));
    span.entry = entry;
    span.index = i;
    spans.push(span);
    fragment.append(span);
    if (c.tokens[i].includes("\n")) fragment.append(el("br"));
  }
  tokens.append(fragment);
  colour(entry, first);
  card.querySelector(".rest")?.remove();
  if (end < c.n) {
    const rest = el("div", { class: "rest meta" });
    if (end < c.tokens.length) {
      const more = el("button", { type: "button", text: `Show ${Math.min(MORE_TOKENS, c.tokens.length - end).toLocaleString("en")} more tokens` });
      more.addEventListener("click", () => addTokens(entry, MORE_TOKENS, card));
      rest.append(more);
    }
    rest.append(el("span", { text: `${end.toLocaleString("en")} of ${c.n.toLocaleString("en")} tokens` + (c.tokens.length < c.n ? `; the page holds the first ${c.tokens.length.toLocaleString("en")}` : "") }));
    card.append(rest);
  }
}
function colour(entry, from = 0) {
  const read = MEASURES[state.by][3];
  for (let i = from; i < entry.spans.length; i++) {
    const value = read(entry.completion, i);
    paint(entry.spans[i], state.by, place(state.by, value));
    entry.spans[i].setAttribute("data-v", number(value, 3));
  }
}

function showTip(span) {
  hideTip();
  const { entry, index: i } = span, c = entry.completion, tip = $("tip");
  const rows = [
    ["w", "w, weight", number(c.w[i], 5)], ["d", "d, distance to the reference", number(c.d[i])], ["h", "h, entropy / log V", number(c.h[i])],
    ["s", "s, score", number(c.s[i])], ["a", "A·w, advantage", number(MEASURES.a[3](c, i))], ["r", "log-ratio to the reference", number(c.r[i])],
    ["p", "probability, policy", c.p[i] === null ? "–" : number(Math.exp(c.p[i]))],
    ["q", "probability, reference", c.p[i] === null || c.r[i] === null ? "–" : number(Math.exp(c.p[i] - c.r[i]))],
  ];
  const list = el("dl");
  for (const [key, label, value] of rows) {
    const on = key === state.by ? "on" : undefined;
    list.append(el("dt", { class: on, text: label }), el("dd", { class: on, text: value, "data-key": key }));
  }
  const what = el("div", { class: "what" }, el("code", {}, ...visible(shortened(c.tokens[i]))), el("span", { text: `token ${i + 1} of ${c.n.toLocaleString("en")}` }));
  tip.replaceChildren(what);
  if (c.tokens[i] === "") tip.append(el("p", { text: "Part of a character that a later token completes." }));
  if (c.w[i] === null) tip.append(el("p", { text: "Not trained: this token is not the policy's." }));
  tip.append(list);
  if (c.alt[i]) tip.append(alternatives(c.alt[i], c.tokens[i]));
  tip.hidden = false;
  placeTip(span);
  span.setAttribute("aria-describedby", "tip");
}
function placeTip(span) {
  const tip = $("tip");
  // A token may run over many lines: beside the first one that can be seen.
  const boxes = [...span.getClientRects()];
  const box = boxes.find((line) => line.bottom > 0 && line.top < innerHeight) || boxes[0] || span.getBoundingClientRect();
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const below = box.bottom + 8 + height < innerHeight || box.top < height + 8;
  tip.style.left = Math.max(8, Math.min(innerWidth - width - 8, box.left - 20)) + "px";
  tip.style.top = Math.max(8, below ? Math.min(box.bottom + 8, innerHeight - height - 8) : box.top - height - 8) + "px";
}
function alternatives([policy, reference], own) {
  const p = new Map(policy), q = new Map(reference);
  const body = el("table", {}, el("tr", {}, el("th", { text: "likeliest here" }), el("th", { text: "policy" }), el("th", { text: "reference" })));
  for (const text of [...new Set([...p.keys(), ...q.keys()])].slice(0, 7)) {
    const cell = (probability, hue) => {
      const bar = el("span", { class: "bar" });
      bar.style.width = `${Math.round(42 * (probability || 0))}px`;
      bar.style.background = `rgb(var(${hue}))`;
      return el("td", {}, bar, probability === undefined ? "–" : number(probability, 2));
    };
    const word = el("code", {}, ...visible(shortened(text)));
    // A first token may lack the space that it has alone.
    if (text === own || (own.trim() && text.trim() === own.trim())) word.style.fontWeight = "700";
    body.append(el("tr", {}, el("td", {}, word), cell(p.get(text), "--more"), cell(q.get(text), "--less")));
  }
  return body;
}
function hideTip() {
  $("tip").hidden = true;
  document.querySelectorAll("[aria-describedby]").forEach((node) => node.removeAttribute("aria-describedby"));
}

function drawSide() {
  const runs = runsShown();
  $("side").replaceChildren(...runs.map((index) => el("div", {}, ...(runs.length > 1 ? [el("h3", { class: "run" }, swatch(index), DATA.runs[index].name)] : []), ...sideOf(DATA.runs[index]))));
}
function sideOf({ summary }) {
  const at = state.step === "all" ? -1 : summary.shares.findIndex(([step]) => step === Number(state.step));
  if (at < 0 && state.step !== "all") return [el("p", { class: "nothing", text: `Step ${state.step} of this run is not logged.` })];
  const place = at < 0 ? null : at;
  const counts = summary.edges.slice(1).map((_, bin) => summary.counts.filter((_, i) => place === null || i === place).reduce((sum, list) => sum + list[bin], 0));
  const share = place === null ? summary.share : summary.shares[place][1];
  const where = DATA.kind === "inspect" ? "text" : place === null ? "logged steps" : `step ${state.step}`;
  const panel = el("div", { class: "panel" }, el("h3", { text: `Weights, ${where}` }),
    el("p", { class: "big", text: share === null ? "–" : number(share, 4) }),
    el("p", { text: "effective share: 1 = every token counts alike (GRPO), 1/T = one token has it all" }), histogram(summary.edges, counts));
  const parts = [panel];
  // Of all logged steps, whichever of them is chosen: a step alone holds too few of most tokens.
  const whole = DATA.kind === "inspect" ? "the text" : "the run";
  for (const [title, rows] of [[`Most credited tokens of ${whole}`, summary.most], [`Least credited tokens of ${whole}`, summary.least]]) {
    if (!rows.length) continue;
    const body = el("table", {}, el("tr", {}, ...["", "mean w", "d", "h", "n"].map((text) => el("th", { text }))));
    const digits = summary.high - summary.low < 0.05 ? 5 : 4;
    for (const row of rows.slice(0, 8)) {
      body.append(el("tr", {}, el("td", {}, el("code", {}, ...visible(shortened(row.text, 60)))), ...[number(row.w, digits), number(row.d, 2), number(row.h, 2), row.count.toLocaleString("en")].map((text) => el("td", { text }))));
    }
    parts.push(el("div", { class: "panel" }, el("h3", { text: title }), body));
  }
  parts.push(el("div", { class: "panel" }, el("p", { text: `${counted(summary.tokens, "token")} of ${counted(summary.completions, "completion")}; w from ${number(summary.low, 4)} to ${number(summary.high, 4)}.` })));
  return parts;
}
const counted = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
function histogram(edges, counts) {
  const W = 300, H = 96, bottom = 78, n = counts.length, total = counts.reduce((a, b) => a + b, 0) || 1;
  // Square roots: few tokens far from 1 are what one looks for beside thousands at it.
  const top = Math.sqrt(Math.max(...counts, 1));
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Histogram of the weights; heights are square roots of counts." });
  counts.forEach((count, i) => {
    const height = count ? Math.max(1.5, (Math.sqrt(count) / top) * 70) : 0;
    const bar = svg("rect", { x: (i * W) / n, width: W / n - 1, y: bottom - height, height });
    const side = Math.sign(i - (n - 1) / 2);
    bar.style.fill = side ? `rgb(var(${side < 0 ? "--less" : "--more"}))` : "var(--soft)";
    bar.append(svg("title", { text: `w ${number(edges[i], 4)} to ${number(edges[i + 1], 4)}: ${count.toLocaleString("en")} tokens (${number((100 * count) / total, 2)} %)` }));
    picture.append(bar);
  });
  picture.append(svg("line", { class: "axis", x1: 0, x2: W, y1: bottom, y2: bottom }));
  for (const [x, anchor, value] of [[0, "start", edges[0]], [W / 2, "middle", 1], [W, "end", edges[n]]]) {
    picture.append(svg("text", { class: "tick", x, y: H - 4, "text-anchor": anchor, text: "w " + number(value, 4) }));
  }
  return picture;
}

function drawControls() {
  const credit = stepsShown();
  const steps = [...new Set(credit.map((step) => step.step))].sort((a, b) => a - b);
  const redraw = () => { state.cards = FIRST_CARDS; drawCards(); };
  const select = (label, key, options, then = redraw) => {
    const box = el("select", { id: `by-${key}` }, ...options.map(([value, text]) => el("option", { value, text })));
    box.value = state[key];
    box.addEventListener("change", () => { state[key] = box.value; then(); });
    return el("label", { class: "control" }, label, box);
  };
  const choices = el("div", { class: "choices" });
  for (const [key, [name]] of Object.entries(MEASURES)) {
    if (key === "a" && !credit.some((step) => step.completions.some((c) => c.a !== null))) continue;
    const input = el("input", { type: "radio", name: "measure", value: key });
    input.checked = key === state.by;
    input.addEventListener("change", () => { state.by = key; drawLegend(); shown.forEach((entry) => colour(entry)); });
    choices.append(el("label", {}, input, el("span", { text: name })));
  }
  const parts = [];
  if (logged().length > 1) {
    const options = [[BESIDE, "side by side"], ...logged().map((index) => [index, DATA.runs[index].name])];
    parts.push(select("Run", "run", options, () => { Object.assign(state, { step: opening(), reward: "all", cards: FIRST_CARDS }); drawCredit(); }));
  }
  parts.push(el("fieldset", {}, el("legend", { text: "Colour by" }), choices));
  if (steps.length > 1) parts.push(select("Step", "step", [["all", "all"], ...steps.map((step) => [step, step])], () => { redraw(); drawSide(); }));
  const rewards = rewardRanges(credit);
  if (rewards.length > 1) parts.push(select("Reward", "reward", [["all", "all"], ...rewards]));
  if (credit.reduce((sum, step) => sum + step.completions.length, 0) > 1) {
    parts.push(select("Order", "order", [["logged", "as logged"], ["newest", "newest first"], ["share", "most concentrated"], ["high", "highest advantage"], ["low", "lowest advantage"]]));
    const search = el("input", { type: "search", id: "search", placeholder: "text" });
    search.value = state.search;
    search.addEventListener("input", () => { state.search = search.value; redraw(); });
    parts.push(el("label", { class: "control" }, "Find", search));
  }
  const numbers = el("input", { type: "checkbox", id: "numbers" });
  numbers.checked = state.numbers;
  numbers.addEventListener("change", () => { state.numbers = numbers.checked; $("cards").classList.toggle("numbers", state.numbers); });
  parts.push(el("label", { class: "control row" }, numbers, "numbers"));
  $("controls").replaceChildren(...parts);
}
function rewardRanges(credit) {
  const values = credit.flatMap((step) => step.completions.map((c) => c.reward)).filter((x) => x !== null).sort((a, b) => a - b);
  const different = [...new Set(values)];
  if (different.length <= 6) return different.map((x) => [`${x}|${x}`, number(x)]);
  const edges = [0, 0.25, 0.5, 0.75, 1].map((q) => values[Math.round(q * (values.length - 1))]);
  return [3, 2, 1, 0].map((i) => [`${edges[i]}|${edges[i + 1]}`, `${number(edges[i])} to ${number(edges[i + 1])}`]);
}

function drawCredit() {
  scales();
  drawControls();
  drawLegend();
  drawSide();
  drawCards();
}
/* The step that is seen first: of those that all shown runs have, where the given credit is the least even. */
function opening() {
  const lists = runsShown().map((index) => new Map(DATA.runs[index].credit.map((step) => [step.step, evenness(step)])));
  const common = [...lists[0].keys()].filter((step) => lists.every((list) => list.has(step)));
  if (new Set(stepsShown().map((step) => step.step)).size < 2 || !common.length) return "all";
  const least = (step) => Math.min(...lists.map((list) => list.get(step)));
  return String(common.reduce((best, step) => (least(step) <= least(best) ? step : best)));
}
/* Mean effective share of the completions that have a signal; 2 where none has. */
function evenness({ completions }) {
  const shares = completions.filter((c) => c.a !== 0 && c.share !== null).map((c) => c.share);
  return shares.length ? shares.reduce((sum, share) => sum + share, 0) / shares.length : 2;
}
function startCredit() {
  const runs = logged();
  if (!runs.length) return;
  state.run = runs.length > 1 ? BESIDE : runs[0];
  state.step = opening();
  $("credit").hidden = false;
  const lead = "Point at a token for its numbers, or tab to a completion and use the arrow keys.";
  $("credit-lead").textContent = state.step === "all" ? lead : `Step ${state.step}, where the weights are the least even. ${lead}`;
  const cards = $("cards");
  const token = (event) => event.target.closest?.(".t");
  // The page that scrolls below a mouse at rest is no pointing: whoever goes by keyboard keeps the tip.
  let pointer = "";
  const rests = ({ screenX, screenY }) => {
    const before = pointer;
    pointer = `${screenX} ${screenY}`;
    return before === pointer && Boolean(document.activeElement?.classList.contains("t"));
  };
  addEventListener("pointermove", rests, { passive: true });
  cards.addEventListener("pointerover", (event) => rests(event) || (token(event) ? showTip(token(event)) : hideTip()));
  cards.addEventListener("pointerleave", (event) => rests(event) || hideTip());
  cards.addEventListener("focusin", (event) => token(event) && showTip(token(event)));
  cards.addEventListener("focusout", hideTip);
  cards.addEventListener("click", (event) => token(event)?.focus());
  // Going by keyboard scrolls the page, too: the tip of the token that has the focus goes along.
  addEventListener("scroll", () => {
    const described = document.querySelector("[aria-describedby]");
    if (described && described === document.activeElement) placeTip(described);
    else hideTip();
  }, { passive: true });
  cards.addEventListener("keydown", (event) => {
    const span = token(event);
    if (event.key === "Escape") hideTip();
    if (!span) return;
    const { spans } = span.entry;
    const to = { ArrowRight: span.index + 1, ArrowLeft: span.index - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = spans[Math.max(0, Math.min(spans.length - 1, to))];
    span.tabIndex = -1;
    next.tabIndex = 0;
    next.focus({ preventScroll: false });
  });
  drawCredit();
}

function drawFacts() {
  $("facts").textContent = DATA.facts.map(([label, value]) => `${label} ${value}`).join(" · ");
  const notes = DATA.runs.flatMap((run) => run.notes.map((note) => (DATA.runs.length > 1 ? `${run.name}: ${note}` : note)));
  $("notes").replaceChildren(...notes.map((text) => el("p", { class: "note", text })));
  $("notes").hidden = !notes.length;
  if (DATA.runs.length === 1 && DATA.runs[0].figures.length) {
    for (const [label, value] of DATA.runs[0].figures) {
      const [main, ...detail] = value.split(" (");
      const figure = el("b", { text: main + " " });
      if (detail.length) figure.append(el("small", { text: detail.join(" (").replace(")", "") }));
      $("figures").append(el("div", { class: "figure" }, figure, el("span", { text: label })));
    }
    $("figures").hidden = false;
  }
}
function drawSettings() {
  const row = (cells, tag = "td") => el("tr", {}, ...cells.map((text) => el(tag, { text })));
  const body = $("settings-body"), many = DATA.runs.length > 1;
  const names = DATA.runs.map((run) => run.name);
  if (many) {
    const labels = [...new Set(DATA.runs.flatMap((run) => run.figures.map(([label]) => label)))];
    const figure = (run, label) => (run.figures.find(([name]) => name === label) || [0, "–"])[1];
    if (labels.length) body.append(el("h3", { text: "Last figures" }), el("table", { id: "last-figures" }, row(["", ...names], "th"), ...labels.map((label) => row([label, ...DATA.runs.map((run) => figure(run, label))]))));
    body.append(el("h3", { text: DATA.differences.length ? "What is set differently" : "Nothing is set differently." }));
    if (DATA.differences.length) body.append(el("table", { id: "differences" }, row(["", ...names], "th"), ...DATA.differences.map(([name, values]) => row([name, ...values]))));
  } else {
    body.append(el("table", {}, ...DATA.runs[0].config.map(([name, value]) => row([name, value]))));
  }
  $("settings").hidden = !many && !DATA.runs[0].config.length;
}

drawFacts();
startCredit();
drawCurves();
drawSettings();
document.documentElement.dataset.ready = "true";
