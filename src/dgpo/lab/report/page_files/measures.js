/* What a token can be coloured by. `middle`: where the scale has no colour (null: it goes from 0 up). */
const at = (list, i) => (list ? list[i] : null);
/* A token's advantage: of a signed rule as it gave it, of others A·w. */
const advantageOf = (c, i) => (c.t ? c.t[i] : c.a === null || at(c.w, i) === null ? null : c.a * c.w[i]);
/* Where there is no rule, no token is marked as left out by it. */
const isTrained = (c, i) => !(c.t || c.w) || (c.t || c.w)[i] !== null;
const MEASURES = {
  w: { name: "weight", title: "w: the token's share of the completion's advantage; 1 = even", middle: 1, read: (c, i) => at(c.w, i) },
  a: { name: "token advantage", title: "A·w: the completion's advantage times the token's weight, or what a signed rule gave", middle: 0, read: advantageOf },
  d: { name: "squared Hellinger distance", title: "d: of the policy's distribution from the reference's at this token, 0 to 1", middle: null, read: (c, i) => at(c.d, i) },
  h: { name: "entropy", title: "h: H / log V of the policy at this token, 0 to 1", middle: null, read: (c, i) => at(c.h, i) },
  s: { name: "score", title: "s = d · h^κ, which the paper's weights are made of", middle: null, read: (c, i) => at(c.s, i) },
  r: { name: "log-ratio", title: "log p of the policy less log p of the reference, of the sampled token", middle: 0, read: (c, i) => at(c.r, i) },
};
/* Further columns, as a rule or an engine logged them; those of our engines have names in words, and signed ones a middle. */
const COLUMNS = {
  sampling_log_ratio: { name: "log-ratio to the sampling policy", title: "log p of the policy less log p of the policy that sampled the token", middle: 0 },
  hindsight_log_ratio: { name: "log-ratio of the hint", title: "i: log p of the reference that is shown the hint less log p of the one that is shown another hint, or none; above 0, the token fits the hint", middle: 0 },
  hindsight_hellinger_sq: { name: "distance by the hint", title: "d of hindsight: squared Hellinger distance of the reference with the hint from the one with another hint, or none, 0 to 1", middle: null },
};
function readColumns() {
  for (const run of DATA.runs) for (const step of run.credit) for (const group of step.groups) for (const c of group.completions) {
    for (const name of Object.keys(c.columns)) {
      const read = (other, i) => (Object.hasOwn(other.columns, name) ? other.columns[name][i] : null);
      const known = Object.hasOwn(COLUMNS, name) ? COLUMNS[name] : { name, title: `${name}: a column of the log`, guessed: true };
      MEASURES[`column:${name}`] ??= { ...known, read };
    }
  }
}

/* Of the completions that are shown: range of each measure, and how far from the middle its strongest colour is. */
function measureScales(completions) {
  for (const [key, measure] of Object.entries(MEASURES)) {
    const values = [];
    for (const c of completions) {
      const stride = Math.max(1, Math.floor(c.tokens.length / 4000));
      for (let i = 0; i < c.tokens.length; i += stride) {
        const value = measure.read(c, i);
        if (value !== null) values.push(value);
      }
    }
    values.sort((a, b) => a - b);
    Object.assign(measure, { low: values[0], high: values[values.length - 1], any: values.length > 0 });
    if (measure.guessed) measure.middle = measure.low < 0 ? 0 : null;
    measure.logarithmic = key === "w" && measure.low > 0;
    const sizes = values.map((value) => Math.abs(distance(measure, value))).sort((a, b) => a - b);
    // The strongest colour from the 99.5 % point on: one extreme token must not pale all others.
    const top = sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(0.995 * sizes.length))] || sizes[sizes.length - 1] : 0;
    measure.reach = Math.max(top, key === "w" ? Math.log(1.001) : 1e-9);
  }
  if (!MEASURES[state.by].any) state.by = Object.keys(MEASURES).find((key) => MEASURES[key].any) || "w";
}
/* What the page opens with: the weights, unless they are all alike, as those of GRPO are. */
function firstMeasure() {
  measureScales(completionsShown());
  const differs = ({ any, low, high }) => any && high - low > 1e-6;
  if (!MEASURES.w.any || differs(MEASURES.w)) return state.by;
  return ["d", "h"].find((key) => differs(MEASURES[key])) ?? state.by;
}
const distance = ({ logarithmic, middle }, value) => (logarithmic ? Math.log(value) : value - (middle || 0));
/* From -1 to 1: how far a value is from the middle of its scale. */
const place = (measure, value) => (value === null || value === undefined ? 0 : Math.max(-1, Math.min(1, distance(measure, value) / measure.reach)));
function paint(node, measure, t) {
  const hue = measure.middle === null ? "--seq" : t < 0 ? "--less" : "--more";
  const size = Math.abs(t);
  node.style.backgroundColor = size < 0.02 ? "transparent" : `rgba(var(${hue}), calc(${(0.04 + 0.96 * size).toFixed(3)} * var(--strength)))`;
  // Not by colour alone: a solid bar below for more, dots for less, thicker the further.
  node.style.borderBottom = size < 0.12 ? "" : `${1 + Math.round(2 * size)}px ${t < 0 ? "dotted" : "solid"} rgb(var(${hue}))`;
}

/* Ends of the scale: no value beyond those that occur. */
function ends(measure) {
  const { reach, low, high, logarithmic, middle } = measure;
  const value = (far) => (logarithmic ? Math.exp(far) : (middle || 0) + far);
  return { value, from: middle === null ? 0 : Math.max(-reach, Math.min(0, distance(measure, low))), to: Math.min(reach, Math.max(0, distance(measure, high))) };
}
function drawLegend() {
  const measure = MEASURES[state.by], { value, from, to } = ends(measure);
  const stops = measure.middle === null ? [0, to / 4, to / 2, (3 * to) / 4, to] : [from, from / 2, 0, to / 2, to];
  const scale = el("span", { class: "scale", "aria-hidden": "true" });
  const digits = measure.logarithmic && measure.reach < 0.1 ? 4 : 3;
  for (const far of [...new Set(stops.map((x) => x || 0))]) {
    const beyond = far === to && measure.high > value(to) * (1 + 1e-9) ? "≥ " : far === from && far < 0 && measure.low < value(from) - 1e-9 ? "≤ " : "";
    const stop = el("span", { text: beyond + number(value(far), digits) });
    paint(stop, measure, Math.max(-1, Math.min(1, far / measure.reach)));
    scale.append(stop);
  }
  $("legend").replaceChildren(el("span", {}, el("b", { text: measure.name }), ` — ${measure.title}`), ...(measure.any ? [scale] : []));
  if (state.by === "w" && measure.logarithmic && measure.reach < Math.log(1.05)) {
    $("legend").append(el("span", { text: `The scale is stretched: nearly all weights lie within ${number(100 * (Math.exp(measure.reach) - 1), 2)} % of 1.` }));
  }
}
