/* Pointer, keyboard and address; then everything is drawn. */
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
    const span = token(event);
    if (event.key === "Escape") hideTip();
    if (!span) return;
    const { spans } = span.entry, here = spans.indexOf(span);
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    goTo(spans[Math.max(0, Math.min(spans.length - 1, to))]);
  });
  addEventListener("hashchange", follow);
}
function startCredit() {
  const runs = logged();
  if (!runs.length) return;
  state.run = runs.length > 1 ? BESIDE : runs[0];
  const { step, share } = opening();
  state.step = step;
  $("credit").hidden = false;
  const lead = "Point at a token for its numbers, or tab to a completion and use the arrow keys.";
  const uneven = step !== "all" && share < 0.995;
  $("credit-lead").textContent = uneven ? `Step ${step}, where the credit is the least even. ${lead}` : lead;
  listen($("cards"));
  drawCredit();
  follow();
}

drawFacts();
startCredit();
drawCurves();
drawSettings();
document.documentElement.dataset.ready = "true";
