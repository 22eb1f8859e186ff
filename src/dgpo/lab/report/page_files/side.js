/* Figures of all logged completions of a run: effective share, histogram, tables of tokens. */
function drawSide() {
  const runs = runsShown();
  $("side").replaceChildren(...runs.map((index) => el("div", {}, ...(runs.length > 1 ? [el("h3", { class: "run", title: DATA.runs[index].name }, swatch(hueOf(index)), DATA.runs[index].label)] : []), ...sideOf(DATA.runs[index]))));
}
function sideOf({ summary, rule }) {
  if (!summary.tokens) return [el("div", { class: "panel" }, el("p", { text: `${counted(summary.completions, "completion")}, without a credit rule.` }))];
  const step = state.step === "all" ? -1 : summary.shares.findIndex(([other]) => other === Number(state.step));
  if (step < 0 && state.step !== "all") return [el("p", { class: "nothing", text: `Step ${state.step} of this run is not logged.` })];
  const counts = summary.edges.slice(1).map((_, bin) => summary.counts.filter((_, i) => step < 0 || i === step).reduce((sum, list) => sum + list[bin], 0));
  const share = step < 0 ? summary.share : summary.shares[step][1];
  const where = DATA.kind === "inspect" ? "text" : step < 0 ? "logged steps" : `step ${state.step}`;
  const panel = el("div", { class: "panel" }, el("h3", { text: `${summary.signed ? "Token advantages" : "Weights"}, ${where}` }),
    el("p", { class: "big", text: share === null ? "–" : number(share, 4) }),
    el("p", { text: "effective share: 1 = every token counts alike (GRPO), 1/T = one token has it all" }));
  const isEven = !summary.signed && summary.low === 1 && summary.high === 1;
  panel.append(isEven ? el("p", { text: "All weights are 1." }) : histogram(summary, counts));
  if (rule) panel.append(el("p", { text: `rule: ${rule}` }));
  const parts = [panel];
  // Of all logged steps, whichever of them is chosen: a step alone holds too few of most tokens.
  const whole = DATA.kind === "inspect" ? "the text" : "the run";
  for (const [title, rows] of [[`Most credited tokens of ${whole}`, summary.most], [`Least credited tokens of ${whole}`, summary.least]]) {
    if (rows.length && !isEven) parts.push(el("div", { class: "panel" }, el("h3", { text: title }), tokenTable(rows, summary)));
  }
  const range = summary.low === null ? "" : `; ${summary.signed ? "token advantages" : "weights"} from ${number(summary.low, 4)} to ${number(summary.high, 4)}`;
  parts.push(el("div", { class: "panel" }, el("p", { text: `${counted(summary.tokens, "token")} of ${counted(summary.completions, "completion")}${range}.` })));
  return parts;
}
function tokenTable(rows, summary) {
  const digits = summary.high - summary.low < 0.05 ? 5 : 4;
  const columns = [
    [summary.signed ? "advantage" : "weight", "mean over the token's occurrences", (row) => number(row.w, digits)],
    ["distance", "mean squared Hellinger distance", (row) => number(row.d, 2)],
    ["entropy", "mean of H / log V", (row) => number(row.h, 2)],
    ["n", "occurrences", (row) => many(row.count)],
  ].filter(([name]) => name !== "distance" || rows.some((row) => row.d !== null));
  const body = el("table", {}, el("tr", {}, el("th"), ...columns.map(([text, title]) => el("th", { text, title }))));
  for (const row of rows.slice(0, 8)) {
    body.append(el("tr", {}, el("td", {}, el("code", {}, ...visible(shortened(row.text, 60)))), ...columns.map(([, , read]) => el("td", { text: read(row) }))));
  }
  return body;
}
function histogram({ edges, signed }, counts) {
  const W = 300, H = 96, bottom = 78, n = counts.length, total = counts.reduce((a, b) => a + b, 0) || 1;
  const middle = signed ? 0 : 1, name = signed ? "token advantage" : "weight";
  const centre = edges.findLastIndex((edge, i) => i < n && edge <= middle);  // the bin of no redistribution
  // Square roots: few tokens far from the middle are what one looks for beside thousands at it.
  const top = Math.sqrt(Math.max(...counts, 1));
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Histogram of the ${name}s; heights are square roots of counts.` });
  counts.forEach((count, i) => {
    const height = count ? Math.max(1.5, (Math.sqrt(count) / top) * 70) : 0;
    const bar = svg("rect", { x: (i * W) / n, width: W / n - 1, y: bottom - height, height });
    bar.style.fill = i === centre ? "var(--soft)" : `rgb(var(${i < centre ? "--less" : "--more"}))`;
    bar.append(svg("title", { text: `${name} ${number(edges[i], 4)} to ${number(edges[i + 1], 4)}: ${many(count)} tokens (${number((100 * count) / total, 2)} %)` }));
    picture.append(bar);
  });
  picture.append(svg("line", { class: "axis", x1: 0, x2: W, y1: bottom, y2: bottom }));
  // The ends are named where the name of the middle leaves room.
  const x = ((centre + 0.5) * W) / n;
  const ticks = [[x, x < 40 ? "start" : x > W - 40 ? "end" : "middle", middle], ...(x > 90 ? [[0, "start", edges[0]]] : []), ...(x < W - 90 ? [[W, "end", edges[n]]] : [])];
  for (const [where, anchor, value] of ticks) {
    picture.append(svg("text", { class: "tick", x: where, y: H - 4, "text-anchor": anchor, text: number(value, 4) }));
  }
  return picture;
}
