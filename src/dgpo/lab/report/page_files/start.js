/* Pointer, keyboard and address; then everything is drawn. */

/* Keys while the focus is among the completions; false: the browser does what it does. */
const KEYS = {
  Escape: () => { hideTip(); return false; },
  ArrowRight: (span) => (span ? goBy(span, 1) : false),
  ArrowLeft: (span) => (span ? goBy(span, -1) : false),
  Home: (span) => (span ? goBy(span, -Infinity) : false),
  End: (span) => (span ? goBy(span, Infinity) : false),
  ArrowDown: (span, entry) => (span ? goToCompletion(entry, 1, span.index) : false),
  ArrowUp: (span, entry) => (span ? goToCompletion(entry, -1, span.index) : false),
  "[": () => goToStep(-1),
  "]": () => goToStep(1),
  "/": () => { if ($("search")) { $("search").focus(); $("search").select(); } },
};
function goBy(span, by) {
  const { spans } = span.entry;
  goTo(spans[Math.max(0, Math.min(spans.length - 1, spans.indexOf(span) + by))]);
}
/* The same place in the completion before or after, so that two of them can be compared. */
function goToCompletion(entry, by, index) {
  const next = shown[shown.indexOf(entry) + by];
  if (!next) return;
  goTo(next.spans.findLast((span) => span.index <= index) ?? next.spans[0]);
}
function goToStep(by) {
  const box = $("by-step");
  const option = box?.options[box.selectedIndex + by];
  if (!option) return;
  chooseStep(option.value);
  shown[0]?.spans[0]?.focus();
}

function listen(cards) {
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
  cards.addEventListener("focusin", (event) => {
    const span = token(event);
    if (!span) return;
    showTip(span);
    remember(span.entry, position(span.entry.completion, span.index));
  });
  cards.addEventListener("focusout", hideTip);
  cards.addEventListener("click", (event) => token(event)?.focus());
  // Going by keyboard scrolls the page, too: the tip of the token that has the focus goes along.
  addEventListener("scroll", () => {
    const described = document.querySelector("[aria-describedby]");
    if (described && described === document.activeElement) placeTip(described);
    else hideTip();
  }, { passive: true });
  cards.addEventListener("keydown", (event) => {
    const key = KEYS[event.key], card = event.target.closest?.(".card");
    if (!key || event.ctrlKey || event.altKey || event.metaKey) return;
    if (key(token(event), card?.entry) !== false) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.id === "search") shown[0]?.spans[0]?.focus();
  });
  addEventListener("hashchange", follow);
}
function startCredit() {
  const runs = logged();
  if (!runs.length) return;
  state.run = runs.length > 1 ? BESIDE : runs[0];
  state.newest = Boolean(DATA.live);
  const { step, share } = opening();
  state.step = step;
  state.by = firstMeasure();
  $("credit").hidden = false;
  const uneven = step !== "all" && share < 0.995;
  const lead = "Point at a token for its numbers, or tab to a completion and use the arrow keys.";
  $("credit-lead").textContent = uneven ? `Step ${step}, where the credit is the least even. ${lead}` : lead;
  listen($("cards"));
  drawCredit();
  follow();
}

readColumns();
drawFacts();
startCredit();
drawCurves();
drawSettings();
if (DATA.live) watchRun();
if (INSIDE) document.querySelector(".skip").remove();  // it would load the notebook into the frame
document.documentElement.dataset.ready = "true";
