/* The tooltip of a token. */
function showTip(span) {
  hideTip();
  const { entry, index: i } = span, c = entry.completion, tip = $("tip");
  const rows = Object.entries(MEASURES).map(([key, { name, title, read }]) => [key, name, title, read(c, i), key === "w" ? 5 : 3]);
  const [p, r] = [at(c.p, i), at(c.r, i)];
  rows.push(["p", "probability, policy", null, p === null ? null : Math.exp(p), 3], ["q", "probability, reference", null, p === null || r === null ? null : Math.exp(p - r), 3]);
  const list = el("dl");
  for (const [key, name, title, value, digits] of rows) {
    if (value === null) continue;
    const on = key === state.by ? "on" : undefined;
    list.append(el("dt", { class: on, text: name, title }), el("dd", { class: on, text: number(value, digits), "data-key": key }));
  }
  const what = el("div", { class: "what" }, el("code", {}, ...visible(shortened(c.tokens[i]))), el("span", { text: `token ${position(c, i) + 1} of ${many(c.n)}` }));
  tip.replaceChildren(what);
  if (c.tokens[i] === "") tip.append(el("p", { text: "Part of a character that a later token completes." }));
  if (!isTrained(c, i)) tip.append(el("p", { text: "Not trained: this token is not the policy's." }));
  if (entry.fork?.index === i) tip.append(el("p", {}, "The completion beside it goes on with ", el("code", {}, ...visible(shortened(entry.fork.other))), "."));
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
    const token = el("code", {}, ...visible(shortened(text)));
    // A first token may lack the space that it has alone.
    if (text === own || (own.trim() && text.trim() === own.trim())) token.style.fontWeight = "700";
    body.append(el("tr", {}, el("td", {}, token), cell(p.get(text), "--more"), cell(q.get(text), "--less")));
  }
  return body;
}
function hideTip() {
  $("tip").hidden = true;
  document.querySelectorAll("[aria-describedby]").forEach((node) => node.removeAttribute("aria-describedby"));
}
