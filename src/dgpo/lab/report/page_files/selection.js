/* Which completions are shown, in which order, and the address of each. */
const BESIDE = "beside", MOST_BESIDE = 4, FIRST_COMPLETIONS = 16;
const state = { run: 0, by: "w", step: "all", reward: "all", ended: "all", order: "signal", search: "", numbers: false, newest: false, room: FIRST_COMPLETIONS };

const logged = () => DATA.runs.flatMap((run, index) => (run.credit.length ? [index] : []));
/* Side by side stands one run of each setting: of several seeds the first one. */
function besideRuns() {
  const runs = logged();
  const firsts = DATA.bands.map((band) => band.runs.find((index) => runs.includes(index))).filter((index) => index !== undefined);
  return (firsts.length > 1 ? firsts : runs).slice(0, MOST_BESIDE);
}
/* Indices of the runs whose completions are on the page. */
const runsShown = () => (state.run === BESIDE ? besideRuns() : [Number(state.run)]);
const stepsShown = () => runsShown().flatMap((index) => DATA.runs[index].credit);
const completionsOf = (step) => step.groups.flatMap((group) => group.completions);
const completionsShown = () => stepsShown().flatMap(completionsOf);
/* An advantage that is not known may be any. */
const hasSignal = (c) => c.a !== 0 || Boolean(c.t?.some((value) => value));
const END_NAMES = { eos: "complete", length: "cut off" };
const endName = (c) => END_NAMES[c.ended] ?? c.ended ?? "not known";

function fits(c, prompt, query) {
  if (state.reward !== "all") {
    const [low, high] = state.reward.split("|").map(Number);
    if (c.reward === null || c.reward < low || c.reward > high) return false;
  }
  if (state.ended !== "all" && endName(c) !== state.ended) return false;
  return !query || (prompt + c.tokens.join("")).toLowerCase().includes(query);
}
/* Completions above the group's mean beside those below it, those of the largest advantage first. */
function paired(completions) {
  const far = (x, y) => Math.abs(y.a) - Math.abs(x.a);
  const above = completions.filter((c) => c.a > 0).sort(far), below = completions.filter((c) => c.a < 0).sort(far);
  const pairs = [];
  for (let i = 0; i < Math.max(above.length, below.length); i++) pairs.push(...above.slice(i, i + 1), ...below.slice(i, i + 1));
  return [...pairs, ...completions.filter((c) => !c.a)];
}
/* Groups of a run, without the completions that do not fit the filters; those without a signal are the last ones. */
function chosen(run) {
  const groups = [], query = state.search.toLowerCase();
  for (const step of DATA.runs[run].credit) {
    if (state.step !== "all" && step.step !== Number(state.step)) continue;
    for (const { prompt, answer, completions } of step.groups) {
      const fitting = paired(completions.filter((c) => fits(c, prompt, query)));
      if (fitting.length) groups.push({ run, step: step.step, prompt, answer, all: completions, completions: fitting, silent: !completions.some(hasSignal) });
    }
  }
  const share = ({ all }) => Math.min(...all.map((c) => c.share ?? 2));
  const far = ({ all }) => Math.max(...all.map((c) => Math.abs(c.a ?? 0)));
  const orders = { signal: (a, b) => far(b) - far(a), share: (a, b) => share(a) - share(b), newest: (a, b) => b.step - a.step, logged: () => 0 };
  return groups.sort((a, b) => a.silent - b.silent || orders[state.order](a, b));
}
/* Rows of a table with a column a run: the same step and prompt side by side where there are such, then the rest. */
function rowsBeside(lists) {
  const rest = lists.slice(1).map((list) => [...list]);
  const rows = lists[0].map((item) => [item, ...rest.map((list) => {
    const index = list.findIndex((other) => other.step === item.step && other.prompt === item.prompt);
    return index < 0 ? null : list.splice(index, 1)[0];
  })]);
  rest.forEach((list, column) => {
    for (const row of rows) if (row[column + 1] === null && list.length) row[column + 1] = list.shift();
    for (const item of list) rows.push(lists.map((_, index) => (index === column + 1 ? item : null)));
  });
  return rows;
}

/* Steps that all shown runs have logged. */
function commonSteps() {
  const [first, ...others] = runsShown().map((index) => DATA.runs[index].credit.map(({ step }) => step));
  return (first ?? []).filter((step) => others.every((list) => list.includes(step)));
}
/* The step that is seen first: of those that all shown runs have, where the given credit is the least even; while a run
   is watched, the newest one. */
function opening() {
  const lists = runsShown().map((index) => new Map(DATA.runs[index].credit.map((step) => [step.step, evenness(step)])));
  const common = commonSteps();
  if (new Set(stepsShown().map((step) => step.step)).size < 2 || !common.length) return { step: "all", share: 2 };
  if (state.newest) return { step: String(Math.max(...common)), share: 2 };
  const least = (step) => Math.min(...lists.map((list) => list.get(step)));
  const step = common.reduce((best, other) => (least(other) <= least(best) ? other : best));
  return { step: String(step), share: least(step) };
}
/* Mean effective share of the completions that have a signal; 2 where none has. */
function evenness(step) {
  const shares = completionsOf(step).filter((c) => hasSignal(c) && c.share !== null).map((c) => c.share);
  return shares.length ? mean(shares) : 2;
}

/* The address of a completion, and of a token in it: its place in the log, whatever else is shown. */
const address = (entry, token) => `#run=${entry.run}&step=${entry.step}&completion=${entry.completion.id}` + (token === undefined ? "" : `&token=${token}`) + (state.by === "w" ? "" : `&by=${encodeURIComponent(state.by)}`);
const keyOf = (entry) => `${entry.run} ${entry.step} ${entry.completion.id}`;
function remember(entry, token) {
  if (INSIDE) return;
  try { history.replaceState(null, "", address(entry, token)); } catch { /* a viewer without addresses */ }
}
/* Show what the address names. */
function follow() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (!parts.has("completion")) return;
  const [run, step, id] = ["run", "step", "completion"].map((name) => Number(parts.get(name)));
  const logged = DATA.runs[run]?.credit.find((other) => other.step === step);
  if (!logged || !completionsOf(logged).some((c) => c.id === id)) {
    $("credit-lead").textContent = "The completion of this link is not on the page.";
    return;
  }
  if (Object.hasOwn(MEASURES, parts.get("by"))) state.by = parts.get("by");
  Object.assign(state, { run, step: String(step), reward: "all", ended: "all", search: "", newest: false, room: Infinity });
  drawCredit();
  const entry = shown.find((other) => other.completion.id === id);
  if (!parts.has("token")) { entry.card.scrollIntoView({ block: "center" }); entry.card.focus({ preventScroll: true }); return; }
  const span = reveal(entry, Number(parts.get("token")));
  if (!span) return;
  span.scrollIntoView({ block: "center" });
  goTo(span);
}
