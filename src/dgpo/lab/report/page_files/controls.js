/* What is shown, and how: measure, step, filters, order, text. */
function drawControls() {
  const steps = [...new Set(stepsShown().map((step) => step.step))].sort((a, b) => a - b), completions = completionsShown();
  const redraw = () => { state.room = FIRST_COMPLETIONS; drawCards(); };
  const select = (label, key, options, then = redraw) => {
    const box = el("select", { id: `by-${key}` }, ...options.map(([value, text]) => el("option", { value, text })));
    box.value = state[key];
    box.addEventListener("change", () => { state[key] = box.value; then(); });
    return el("label", { class: "control" }, label, box);
  };
  const choices = el("div", { class: "choices" });
  for (const [key, { name, title, any }] of Object.entries(MEASURES)) {
    if (!any) continue;
    const input = el("input", { type: "radio", name: "measure", value: key });
    input.checked = key === state.by;
    input.addEventListener("change", () => {
      state.by = key;
      drawLegend();
      for (const entry of shown) { colour(entry.spans); entry.link?.setAttribute("href", address(entry)); }
    });
    choices.append(el("label", { title }, input, el("span", { text: name })));
  }
  const parts = [];
  if (logged().length > 1) {
    const options = [[BESIDE, "side by side"], ...logged().map((index) => [index, DATA.runs[index].label])];
    parts.push(select("Run", "run", options, () => {
      Object.assign(state, { step: opening().step, reward: "all", ended: "all", room: FIRST_COMPLETIONS });
      drawCredit();
      $("by-run").focus();
    }));
  }
  parts.push(el("fieldset", {}, el("legend", { text: "Colour by" }), choices));
  if (steps.length > 1) parts.push(select("Step", "step", [["all", "all"], ...steps.map((step) => [step, step])], () => chooseStep(state.step)));
  if (DATA.live) {
    const newest = el("input", { type: "checkbox", id: "newest" });
    newest.checked = state.newest;
    newest.addEventListener("change", () => { state.newest = newest.checked; if (state.newest) showNewest(); });
    parts.push(el("label", { class: "control row", title: "go on to each step that is logged" }, newest, "newest step"));
  }
  const rewards = rewardRanges(completions), endings = [...new Set(completions.map(endName))].sort();
  // What was chosen stays, though the ranges of newer data are others.
  if (state.reward !== "all" && !rewards.some(([value]) => value === state.reward)) rewards.push([state.reward, state.reward.split("|").map((x) => number(Number(x))).join(" to ")]);
  if (rewards.length > 1) parts.push(select("Reward", "reward", [["all", "all"], ...rewards]));
  if (endings.length > 1) parts.push(select("Ended", "ended", [["all", "all"], ...endings.map((name) => [name, name])]));
  if (completions.length > 1) {
    const orders = [["signal", "largest advantage"], ["share", "most concentrated"], ["newest", "newest first"], ["logged", "as logged"]];
    parts.push(select("Order", "order", orders));
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
/* Show a step, or all; whoever chooses one does not want to be taken from it. */
function chooseStep(step) {
  Object.assign(state, { step, newest: false, room: FIRST_COMPLETIONS });
  for (const [id, name, value] of [["by-step", "value", step], ["newest", "checked", false]]) if ($(id)) $(id)[name] = value;
  drawCards();
  drawSide();
}
function rewardRanges(completions) {
  const values = completions.map((c) => c.reward).filter((x) => x !== null).sort((a, b) => a - b);
  const different = [...new Set(values)];
  if (different.length <= 6) return different.map((x) => [`${x}|${x}`, number(x)]);
  const edges = [0, 0.25, 0.5, 0.75, 1].map((q) => values[Math.round(q * (values.length - 1))]);
  return [3, 2, 1, 0].map((i) => [`${edges[i]}|${edges[i + 1]}`, `${number(edges[i])} to ${number(edges[i + 1])}`]);
}
function drawCredit() {
  measureScales(completionsShown());
  drawControls();
  drawLegend();
  drawSide();
  drawCards();
}
