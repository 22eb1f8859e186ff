/* Curves of the metrics. Name of a metric, and what it is. */
const KNOWN = {
  "reward": ["Reward", "mean over the completions of a step"],
  "reward_std": ["Reward spread", "standard deviation over the completions"],
  "frac_reward_zero_std": ["Groups without spread", "share of prompts whose completions all scored alike: nothing to learn from"],
  "entropy": ["Entropy", "of the policy, nats per token; a collapse to 0 ends exploration"],
  "kl": ["KL to the reference", "estimate per token, nats"],
  "clip_ratio/region_mean": ["Clipped tokens", "share of tokens whose ratio left the trust region"],
  "clip_ratio/low_mean": ["Clipped below", "share of tokens whose ratio fell below 1 − ε"],
  "clip_ratio/high_mean": ["Clipped above", "share of tokens whose ratio rose above 1 + ε"],
  "grad_norm": ["Gradient norm", "before clipping"],
  "completions/mean_length": ["Completion length", "mean, tokens"],
  "completions/clipped_ratio": ["Cut off", "share of completions that reached the greatest length"],
  "dgpo/effective_share": ["Effective share", "ESS / T: 1 = every token counts alike (GRPO), 1/T = one token has it all"],
  "dgpo/weight/mean": ["Mean weight", "of a rule whose weights need not have mean 1"],
  "dgpo/weight/std": ["Spread of the weights", "standard deviation over the tokens"],
  "dgpo/weight/max": ["Largest weight", "of a token, in a step"],
  "dgpo/token_advantage/mean": ["Mean token advantage", "of a signed rule"],
  "dgpo/token_advantage/max": ["Largest token advantage", "in a step"],
  "dgpo/token_advantage/min": ["Lowest token advantage", "in a step"],
  "dgpo/hellinger_sq/mean": ["Squared Hellinger distance", "d of policy and reference, 0 to 1; mean over the tokens"],
  "dgpo/hellinger_sq/p99": ["Squared Hellinger distance, 99 %", "99 of 100 tokens lie below"],
  "dgpo/hellinger_sq/max": ["Squared Hellinger distance, largest", "of a token, in a step"],
  "dgpo/entropy_gate/mean": ["Entropy gate", "mean of (H / log V)^κ, the normalised entropy"],
  "dgpo/hint/auroc": ["Hint tells the better", "of two completions of a prompt, share of the pairs; near 0.5 hints are wrong or not followed"],
  "dgpo/hint/contradicted": ["Contradicted hints", "share of the hinted completions whose rewards say the opposite of their hint"],
  "dgpo/hint/share": ["Hinted", "share of the completions"],
  "dgpo/hint/size": ["Size of the hint's term", "s, root mean square of i d over a completion, nats; below the floor it fades"],
  "dgpo/hint/log_ratio": ["Log-ratio of the hint", "mean |i| over the tokens, nats"],
  "dgpo/hint/hellinger_sq": ["Distance by the hint", "d of the reference with this hint and with what it is compared with, 0 to 1; mean over the tokens"],
  "loss": ["Loss", "only its gradient matters"],
  "learning_rate": ["Learning rate", ""],
  "step_time": ["Seconds per step", ""],
};
/* What is drawn as one curve: a run, or the seeds of a setting as the band from the lowest to the highest and its mean. */
function curveSeries() {
  if (!DATA.bands.length) return DATA.runs;
  return DATA.bands.map(({ label, runs }) => {
    const members = runs.map((index) => DATA.runs[index]);
    if (members.length === 1) return { ...members[0], label };
    const bands = [...new Set(members.flatMap((run) => Object.keys(run.curves)))].map((name) => {
      const [first, ...others] = members.map((run) => new Map(Object.hasOwn(run.curves, name) ? run.curves[name] : []));
      const steps = [...first.keys()].filter((step) => others.every((points) => points.has(step)));
      const values = steps.map((step) => [first, ...others].map((points) => points.get(step)));
      const curve = (reduce) => steps.map((step, i) => [step, reduce(values[i])]);
      return [name, { mean: curve(mean), low: curve((list) => Math.min(...list)), high: curve((list) => Math.max(...list)) }];
    });
    const name = members.map((run) => run.name).join(", ");
    return { label, name, curves: Object.fromEntries(bands.map(([key, { mean }]) => [key, mean])), bands: new Map(bands) };
  });
}

function drawCurves() {
  const runs = curveSeries();
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))];
  if (!names.length) return;
  const isHeldOut = (name) => /^eval_rewards\/.*\/mean$/.test(name) || /^eval\/(avg|pass)@/.test(name);
  const isReward = (name) => /^rewards\/.*\/mean$/.test(name);
  const rewards = names.filter(isReward);
  const several = (name) => runs.some((run) => (run.curves[name] || []).length > 1);
  const first = ["reward", ...names.filter(isHeldOut), ...(rewards.length > 1 ? rewards : []), ...Object.keys(KNOWN).slice(1)];
  const moves = (name) => new Set(runs.flatMap((run) => (run.curves[name] || []).map((p) => p[1]))).size > 1;
  // One update a rollout never clips; the share of all clipped tokens is enough then.
  const isIdle = (name) => /^clip_ratio\/(low|high)_mean$/.test(name) && !moves(name);
  const credit = names.filter((name) => name.startsWith("dgpo/") && !KNOWN[name]);
  const main = [...first, ...credit].filter((name) => names.includes(name) && several(name) && !isIdle(name));
  const others = names.filter((name) => !main.includes(name) && several(name)).sort();
  const heldOut = others.filter((name) => /^eval[_/]/.test(name));
  const rest = others.filter((name) => !heldOut.includes(name));
  for (const id of ["charts", "charts-held-out", "charts-more"]) $(id).replaceChildren();
  const steps = [...new Set(runs.flatMap((run) => Object.values(run.curves).flatMap((points) => points.map((p) => p[0]))))].sort((a, b) => a - b);
  const charts = [];
  const move = (step) => charts.forEach((chart) => chart.show(step));
  for (const [group, into] of [[main, $("charts")], [heldOut, $("charts-held-out")], [rest, $("charts-more")]]) {
    for (const name of group) {
      const chart = makeChart(name, runs, steps, move);
      charts.push(chart);
      into.append(chart.node);
    }
  }
  $("curves").hidden = false;
  $("more").hidden = rest.length === 0;
  $("held-out").hidden = heldOut.length === 0;
  const marks = DATA.bands.length ? "Line: mean over the seeds, smoothed; band: from the lowest to the highest." : "Thin: as logged; bold: smoothed.";
  $("curves-lead").textContent = `Point at a curve: every chart shows its value at that step. ${marks}`;
  if (runs.length > 1) {
    const list = el("div", { class: "names" });
    runs.forEach((run, index) => list.append(el("span", { title: run.name }, swatch(index), run.label)));
    if ($("charts").previousElementSibling.className === "names") $("charts").previousElementSibling.remove();
    $("charts").before(list);
  }
}

function smoothed(points) {
  if (points.length < 30) return points;
  let mean = points[0][1];
  return points.map(([step, value]) => [step, (mean += 0.15 * (value - mean))]);
}

function makeChart(name, runs, steps, move) {
  const W = 300, H = 118, left = 40, right = 298, top = 8, bottom = 100;
  const lines = runs.map((run) => run.curves[name] || []);
  const bands = runs.map((run) => run.bands?.get(name)).map((band) => band && { low: smoothed(band.low), high: smoothed(band.high) });
  const values = [...lines, ...bands.flatMap((band) => (band ? [band.low, band.high] : []))].flat().map((p) => p[1]);
  let low = Math.min(...values), high = Math.max(...values);
  if (high - low < 1e-12) { const pad = Math.abs(high) * 0.1 || 1; if (low !== 0) low -= pad; high += pad; }
  const [start, end] = [steps[0], steps[steps.length - 1] === steps[0] ? steps[0] + 1 : steps[steps.length - 1]];
  const x = (step) => left + ((step - start) / (end - start)) * (right - left);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  const path = (points) => points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(2)} ${y(p[1]).toFixed(2)}`).join("");
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0 });
  picture.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  picture.append(svg("line", { class: "axis", x1: left, x2: right, y1: top, y2: top }));
  picture.append(svg("text", { class: "tick", x: left, y: H - 6, text: `step ${start}` }));
  picture.append(svg("text", { class: "tick", x: right, y: H - 6, "text-anchor": "end", text: String(steps[steps.length - 1]) }));
  bands.forEach((band, index) => {
    if (!band?.low.length) return;
    const area = svg("path", { class: "band", d: path([...band.low, ...[...band.high].reverse()]) + "Z" });
    area.style.fill = `var(--run-${index % 6})`;
    picture.append(area);
  });
  lines.forEach((points, index) => {
    const soft = smoothed(points);
    const marks = [["line", soft]];
    if (soft !== points && !bands[index]) marks.unshift(["raw", points]);
    for (const [kind, shown] of marks) {
      const mark = svg("path", { class: kind, d: path(shown), "stroke-dasharray": kind === "line" ? DASHES[index % 6] : "" });
      mark.style.stroke = `var(--run-${index % 6})`;
      picture.append(mark);
    }
    if (points.length <= 12) {
      for (const [step, value] of points) {
        const dot = svg("circle", { cx: x(step), cy: y(value), r: 2.4 });
        dot.style.fill = `var(--run-${index % 6})`;
        picture.append(dot);
      }
    }
  });
  const digits = [2, 3, 4, 5].find((n) => number(low, n) !== number(high, n)) || 5;
  for (const [value, at] of [[high, top + 4], [low, bottom + 1]]) {
    picture.append(svg("text", { class: "tick", x: left - 6, y: at, "text-anchor": "end", text: number(value, digits) }));
  }
  const cursor = svg("line", { class: "cursor", y1: top, y2: bottom, x1: 0, x2: 0, visibility: "hidden" });
  picture.append(cursor);
  const [title, hint] = KNOWN[name] || [name.replace(/^eval_rewards\/(.*)\/mean$/, "Held-out: $1"), name];
  const now = el("span", { class: "now" });
  const near = (points, step) => points.reduce((best, p) => (best === null || Math.abs(p[0] - step) <= Math.abs(best[0] - step) ? p : best), null);
  const say = (step) => {
    now.replaceChildren();
    lines.forEach((points, index) => {
      const point = step === null ? points[points.length - 1] : near(points, step);
      if (!point) return;
      const part = el("b", { text: number(point[1]) });
      part.style.color = runs.length > 1 ? `var(--run-${index % 6})` : "inherit";
      now.append(index ? " · " : "", part);
    });
  };
  let at = null;
  const show = (step) => {
    at = step;
    cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) { cursor.setAttribute("x1", x(step)); cursor.setAttribute("x2", x(step)); }
    say(step);
    if (step !== null) now.append(` at ${step}`);
  };
  const closest = (step) => steps.reduce((best, s) => (Math.abs(s - step) < Math.abs(best - step) ? s : best), steps[0]);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    move(closest(start + (((event.clientX - box.left) / box.width) * W - left) / (right - left) * (end - start)));
  });
  picture.addEventListener("pointerleave", () => move(null));
  picture.addEventListener("blur", () => move(null));
  picture.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const index = at === null ? steps.length - 1 : steps.indexOf(at) + by;
    move(steps[Math.max(0, Math.min(steps.length - 1, index))]);
  });
  const last = lines.map((points) => (points.length ? number(points[points.length - 1][1]) : "–")).join(", ");
  picture.setAttribute("aria-label", `${title}: from step ${start} to ${end}, between ${number(low)} and ${number(high)}, last ${last}. Arrow keys move along it.`);
  say(null);
  picture.step = () => at;
  picture.move = (step) => move(closest(step));
  const node = el("div", { class: "chart", "data-metric": name, title: name },
    el("div", { class: "title" }, el("h3", { text: title }), now), el("div", { class: "hint", text: hint }), picture);
  return { node, show };
}
