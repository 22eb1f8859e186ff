/* Groups of completions, and the tokens of each. */
const FIRST_TOKENS = 600, MORE_TOKENS = 4000, SHORT_HINT = 80;
let drawn = "";  // what is on the page, in short
let shown = [];  // {run, step, completion, spans, tokens, card, fork, ...} of the completions on the page

function drawCards() {
  const runs = runsShown(), rows = rowsBeside(runs.map(chosen));
  hideTip();
  drawn = contentOf(rows);
  shown = [];
  const cards = runs.length > 1 ? runs.map((index) => el("h3", { class: "run", title: DATA.runs[index].name }, swatch(hueOf(index)), DATA.runs[index].label)) : [];
  if (runs.length > 1) cards.push(...noSharedPrompt(rows));
  let count = 0, used = 0;
  for (const row of rows) {
    if (count && count >= state.room) break;
    cards.push(...row.map((group) => (group ? makeGroup(group) : el("div"))));
    count += Math.max(...row.map((group) => group?.completions.length ?? 0));
    used++;
  }
  if (!rows.length) cards.push(el("p", { class: "nothing", text: "No completion fits these filters." }));
  if (rows.length > used) {
    const more = el("button", { type: "button", class: "wide", text: `Show more: ${many(used)} of ${counted(rows.length, "prompt")}` });
    more.addEventListener("click", () => { state.room = count + FIRST_COMPLETIONS; drawCards(); });
    cards.push(more);
  }
  $("cards").replaceChildren(...cards);
  $("cards").className = `cards${state.numbers ? " numbers" : ""}${runs.length > 1 ? ` beside-${runs.length}` : ""}`;
  $("columns").classList.toggle("beside", runs.length > 1);
  // A prompt that scrolls shows its end, where the question is, and must be in reach of the keyboard.
  for (const prompt of document.querySelectorAll(".prompt")) {
    if (prompt.scrollHeight <= prompt.clientHeight) continue;
    prompt.scrollTop = prompt.scrollHeight;
    for (const [name, value] of [["tabindex", 0], ["role", "group"], ["aria-label", "Prompt"]]) prompt.setAttribute(name, value);
  }
}

/* What distinguishes rows of groups from others, as text. */
const contentOf = (rows) => JSON.stringify([state.room, rows.map((row) => row.map((group) => group && [group.run, group.step, group.completions.map((c) => [c.id, c.n, c.tokens.length])]))]);
/* Side by side is a comparison only where the prompts are the same. */
function noSharedPrompt(rows) {
  const shares = rows.some((row) => row.some((group, i) => group && row.some((other, j) => j > i && other && other.prompt === group.prompt && other.step === group.step)));
  return shares || !rows.length ? [] : [el("p", { class: "nothing", text: "These runs share no prompt here: what stands side by side answers different ones." })];
}

const fact = (label, value, title) => el("span", { title }, label + " ", el("b", { text: value }));
function makeGroup(group) {
  const { run, step, prompt, answer, all, completions, silent } = group;
  const meta = el("div", { class: "meta" });
  // Where the columns of the runs stand below each other, their names at the top are out of sight.
  if (state.run === BESIDE) meta.append(el("span", { class: "of-run" }, swatch(hueOf(run)), el("b", { text: DATA.runs[run].label })));
  if (DATA.kind !== "inspect") meta.append(fact("step", many(step)));
  if (all.length > 1) {
    const rewards = all.map((c) => c.reward).filter((x) => x !== null);
    meta.append(el("span", { text: completions.length < all.length ? `${completions.length} of ${all.length} completions` : `${all.length} completions` }));
    if (rewards.length) meta.append(fact("mean reward", number(mean(rewards))));
  }
  if (answer !== null) meta.append(el("span", {}, "correct answer ", el("b", {}, ...visible(shortened(answer, 300)))));
  if (silent) meta.append(el("span", { text: all.length > 1 ? "no signal: every advantage is 0" : "no signal: advantage 0" }));
  const cards = completions.map((completion) => makeCard(group, completion));
  for (let i = 0; i + 1 < cards.length; i += 2) markFork(cards[i].entry, cards[i + 1].entry);
  for (const card of cards) addFirstTokens(card.entry);
  const text = el("div", { class: "prompt", dir: "auto" }, ...visibleLines(prompt));
  return el("div", { class: `group${silent ? " silent" : ""}`, role: "group", "aria-label": "Prompt and its completions" }, meta, text, el("div", { class: "pairs" }, ...cards));
}
function makeCard({ run, step }, c) {
  const meta = el("div", { class: "meta" });
  if (c.reward !== null) meta.append(fact("reward", number(c.reward)));
  if (c.rewards.length > 1) for (const [name, value] of c.rewards) meta.append(fact(name, number(value)));
  if (c.a !== null) meta.append(fact("advantage", signed(c.a), "A of the completion"));
  if (c.share !== null) meta.append(fact("effective share", number(c.share, 4), "ESS / T: 1 = every token counts alike, 1/T = one token has it all"));
  meta.append(fact("tokens", many(c.n)));
  if (c.ended === "length") meta.append(el("b", { text: "cut off", title: "it reached the greatest length" }));
  else if (c.ended !== null && c.ended !== "eos") meta.append(fact("ended", c.ended));
  const tokens = el("div", { class: "tokens", dir: "auto", role: "group", "aria-label": "Completion: arrow keys go from token to token" });
  const hint = c.hint === null ? [] : [hintOf(c)];
  const side = c.a > 0 ? " above" : c.a < 0 ? " below" : "";
  const card = el("article", { class: `card${side}`, tabindex: -1 }, meta, ...hint, tokens);
  const entry = { run, step, completion: c, spans: [], tokens, card, fork: null };
  if (DATA.kind !== "inspect" && !INSIDE) meta.append((entry.link = el("a", { href: address(entry), text: "link", title: "address of this completion" })));
  card.entry = entry;
  shown.push(entry);
  return card;
}
/* What the reference was shown, what that was compared with, and how the rewards agree; long texts open. */
function hintOf({ hint, control, agreement }) {
  if (!hint) return el("p", { class: "told", text: "no hint, plain rule", title: "the reference was shown nothing: the rule hindsight then gives each token the completion's advantage" });
  const texts = control === null ? [["hint ", hint]] : [["hint ", hint], [" compared with ", control]];
  const isShort = (text) => text.trim().split("\n")[0] === text && text.length <= SHORT_HINT;
  const line = texts.flatMap(([name, text]) => [name, el("b", {}, ...beginning(text))]);
  if (agreement !== null) line.push(el("span", { title: "how often the better one of two completions of the prompt is the one that the hint makes likelier; below 50 % the hint may be wrong, and the rule hindsight leaves it out by default", text: ` · the rewards agree in ${Math.round(100 * agreement)} % of the pairs` }));
  if (texts.every(([, text]) => isShort(text))) return el("p", { class: "told" }, ...line);
  const whole = texts.flatMap(([, text]) => el("div", { class: "prompt", dir: "auto" }, ...visibleLines(text)));
  return el("details", { class: "told" }, el("summary", {}, ...line), ...whole);
}
/* The first line of a text, or as much of it as has room. */
function beginning(text) {
  const first = text.trim().split("\n")[0];
  return [...visible(shortened(first, SHORT_HINT)), first !== text && first.length <= SHORT_HINT ? " …" : ""];
}
/* The first token at which two completions of a prompt differ. */
function markFork(one, other) {
  const [a, b] = [one.completion.tokens, other.completion.tokens];
  let index = 0;
  while (index < a.length && index < b.length && a[index] === b[index]) index++;
  if (index === 0 || index >= Math.min(a.length, b.length)) return;
  one.fork = { index, other: b[index] };
  other.fork = { index, other: a[index] };
}

/* Place of a token in the whole completion: some may be left out after the first `head` ones. */
const position = (c, i) => (i < c.head ? i : i + c.n - c.tokens.length);

/* Tokens [0, first) and [last, n) are on the page, with a gap between them that says what is missing. */
function addFirstTokens(entry) {
  const { completion: c, tokens } = entry, n = c.tokens.length;
  const head = n === c.n ? n : c.head;  // behind it, tokens are left out of the log
  entry.first = n <= FIRST_TOKENS ? head : Math.min(head, (2 * FIRST_TOKENS) / 3);
  entry.last = n <= FIRST_TOKENS ? head : Math.max(n === c.n ? 0 : head, n - FIRST_TOKENS / 3);
  entry.head = n === c.n ? entry.last : head;
  entry.parts = [el("span"), el("span", { class: "gap" }), el("span")];
  tokens.append(...entry.parts);
  addTokens(entry, entry.last, n, 0);
  addTokens(entry, 0, entry.first, 0);
  drawGap(entry);
}
function addMore(entry) {
  const { first, last, head } = entry;
  if (first < head) {
    entry.first = Math.min(head, first + MORE_TOKENS);
    addTokens(entry, first, entry.first, first);
  } else {
    entry.last = Math.max(head, last - MORE_TOKENS);
    addTokens(entry, entry.last, last, first);
  }
  drawGap(entry);
}
function addTokens(entry, from, to, index) {
  const { completion: c, spans, parts } = entry;
  const made = [], fragment = document.createDocumentFragment();
  for (let i = from; i < to; i++) {
    const kind = `${isTrained(c, i) ? "" : " off"}${entry.fork?.index === i ? " fork" : ""}`;
    const span = el("span", { class: `t${kind}`, tabindex: i === 0 ? 0 : -1 }, ...visible(c.tokens[i]));
    span.entry = entry;
    span.index = i;
    made.push(span);
    fragment.append(span);
    if (c.tokens[i].includes("\n")) fragment.append(el("br"));
  }
  if (to <= entry.head) parts[0].append(fragment);
  else parts[2].prepend(fragment);
  spans.splice(index, 0, ...made);
  colour(made);
}
function drawGap(entry) {
  const { completion: c, first, last } = entry, gap = entry.parts[1], missing = c.n - entry.spans.length;
  gap.hidden = missing === 0;
  gap.replaceChildren(el("span", { text: `⋯ ${many(missing)} of ${many(c.n)} tokens are not ${last > first ? "shown" : "on this page"} ` }));
  if (last === first) return;
  const more = el("button", { type: "button", text: `Show ${many(Math.min(MORE_TOKENS, last - first))} more` });
  more.addEventListener("click", () => addMore(entry));
  gap.append(more);
}
/* The element of the token at a place of the whole completion, put on the page if need be. */
function reveal(entry, token) {
  const { completion: c } = entry;
  const index = token < c.head ? token : token - (c.n - c.tokens.length);
  if (!(index >= 0 && index < c.tokens.length) || position(c, index) !== token) return undefined;
  while (index >= entry.first && index < entry.last) addMore(entry);
  return entry.spans.find((span) => span.index === index);
}
function goTo(span) {
  for (const other of span.entry.spans) if (other.tabIndex === 0) other.tabIndex = -1;
  span.tabIndex = 0;
  span.focus({ preventScroll: false });
}
function colour(spans) {
  const measure = MEASURES[state.by];
  for (const span of spans) {
    const value = measure.read(span.entry.completion, span.index);
    paint(span, measure, place(measure, value));
    span.setAttribute("data-v", number(value, 3));
  }
}
