/* A served page asks for newer data while the run trains; a page from the disk never asks for anything. */
const LOST = "The server does not answer: it has ended, or cannot be reached. The page shows what it had.";

async function watchRun() {
  const { seconds } = DATA.live;
  let tag = DATA.live.tag;
  $("live").hidden = false;
  sayLive();
  for (;;) {
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    if (document.hidden) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
    let next = null;
    try {
      const answer = await fetch("data", { headers: { "If-None-Match": tag }, cache: "no-store" });
      if (answer.status === 200) { next = await answer.json(); tag = next.live.tag; }
      else if (answer.status !== 304) throw new Error(answer.statusText);
      $("live-problem").textContent = "";
    } catch {
      if ($("live-problem").textContent !== LOST) $("live-problem").textContent = LOST;
    }
    if (next) refresh(next);
  }
}
function sayLive() {
  const steps = DATA.runs.flatMap((run) => [...Object.values(run.curves).map((points) => points.at(-1)?.[0] ?? 0), run.credit.at(-1)?.step ?? 0]);
  $("live").textContent = `Live, step ${many(Math.max(0, ...steps))}. The page follows the run.`;
}

/* Draw newer data. What somebody looks at stays: step, filters, focus, marked text, and the place on the screen. */
function refresh(next) {
  const focus = focused(), view = cardInView();
  DATA = next;
  readColumns();
  sayLive();
  drawFacts();
  drawCurves();
  drawSettings();
  if ($("credit").hidden) startCredit();
  else refreshCredit();
  restore(focus);
  const card = view && shown.find((entry) => keyOf(entry) === view.key)?.card;
  if (card) scrollBy({ top: card.getBoundingClientRect().top - view.top, behavior: "instant" });
}
/* Nobody is at a token, with the keyboard, the pointer or a mark: the page may go on to the newest step. */
const isIdle = () => !$("cards").contains(document.activeElement) && $("tip").hidden && !hasMark();
const hasMark = () => { const mark = getSelection(); return !mark.isCollapsed && $("cards").contains(mark.anchorNode); };
function showNewest() {
  Object.assign(state, { step: opening().step, room: FIRST_COMPLETIONS });
  if ($("by-step")) $("by-step").value = state.step;
  drawCards();
  drawSide();
}
function refreshCredit() {
  if (state.newest && isIdle()) state.step = opening().step;
  measureScales(completionsShown());
  drawControls();
  drawLegend();
  drawSide();
  // Replaced only where there is something else to see, and never under somebody's mark.
  if (contentOf(rowsBeside(runsShown().map(chosen))) === drawn || hasMark()) return shown.forEach((entry) => colour(entry.spans));
  const opened = new Map(shown.map((entry) => [keyOf(entry), entry]));
  drawCards();
  for (const entry of shown) {
    const before = opened.get(keyOf(entry));
    while (before && (entry.first < Math.min(before.first, entry.head) || entry.last > Math.max(before.last, entry.head))) addMore(entry);
  }
}

/* Where the focus is, by what it is and not by its element, which may be replaced. */
function focused() {
  const node = document.activeElement, entry = node?.closest?.(".card")?.entry;
  if (entry) return { key: keyOf(entry), token: node.entry ? position(entry.completion, node.index) : null };
  const metric = node?.closest?.(".chart")?.dataset.metric;
  if (metric !== undefined) return { metric, step: node.step?.() ?? null };
  if (node?.name === "measure") return { measure: node.value };
  return node?.id ? { id: node.id, ends: node.type === "search" ? [node.selectionStart, node.selectionEnd] : null } : null;
}
function restore(focus) {
  const before = document.activeElement;
  if (!focus || (before && before !== document.body)) return;  // it was not replaced
  const take = (node) => node?.focus({ preventScroll: true });
  if (focus.key) {
    const entry = shown.find((other) => keyOf(other) === focus.key);
    if (entry) take(focus.token === null ? entry.card : reveal(entry, focus.token));
  } else if (focus.metric) {
    const chart = [...document.querySelectorAll(".chart")].find((node) => node.dataset.metric === focus.metric)?.querySelector("svg");
    take(chart);
    if (chart && focus.step !== null) chart.move(focus.step);
  } else if (focus.measure) take([...document.querySelectorAll("input[name=measure]")].find((node) => node.value === focus.measure));
  else if (focus.id) {
    take($(focus.id));
    if (focus.ends) $(focus.id)?.setSelectionRange(...focus.ends);
  }
}
function cardInView() {
  const entry = shown.find(({ card }) => card.getBoundingClientRect().bottom > 0);
  return entry && { key: keyOf(entry), top: entry.card.getBoundingClientRect().top };
}
