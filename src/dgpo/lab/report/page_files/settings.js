/* What stands above and below: facts, notes, last figures, settings. */
function drawFacts() {
  $("facts").textContent = DATA.facts.map(([label, value]) => `${label} ${value}`).join(" · ");
  const notes = DATA.runs.flatMap((run) => run.notes.map((note) => (DATA.runs.length > 1 ? `${run.label}: ${note}` : note)));
  $("notes").replaceChildren(...notes.map((text) => el("p", { class: "note", text })));
  $("notes").hidden = !notes.length;
  if (DATA.runs.length === 1 && DATA.runs[0].figures.length) {
    const figures = [];
    for (const [label, value] of DATA.runs[0].figures) {
      const [main, ...detail] = value.split(" (");
      const figure = el("b", { text: main + " " });
      if (detail.length) figure.append(el("small", { text: detail.join(" (").replace(")", "") }));
      figures.push(el("div", { class: "figure" }, figure, el("span", { text: label })));
    }
    $("figures").replaceChildren(...figures);
    $("figures").hidden = false;
  }
}
function drawSettings() {
  const row = (cells, tag = "td") => el("tr", {}, ...cells.map((text) => el(tag, { text })));
  const body = $("settings-body"), several = DATA.runs.length > 1;
  body.replaceChildren();
  const names = DATA.runs.map((run) => run.label);
  if (several) {
    if ($("settings").nextElementSibling !== $("credit")) $("credit").before($("settings"));  // what differs comes first
    $("settings-title").textContent = "What differs";
    body.append(el("h3", { text: DATA.differences.length ? "Settings" : "Nothing is set differently." }));
    if (DATA.differences.length) body.append(el("table", { id: "differences" }, row(["", ...names], "th"), ...DATA.differences.map(([name, values]) => row([name, ...values]))));
    const labels = [...new Set(DATA.runs.flatMap((run) => run.figures.map(([label]) => label)))];
    const figure = (run, label) => (run.figures.find(([name]) => name === label) || [0, "–"])[1];
    if (labels.length) body.append(el("h3", { text: "Results" }), el("table", { id: "last-figures" }, row(["", ...names], "th"), ...labels.map((label) => row([label, ...DATA.runs.map((run) => figure(run, label))]))));
    const over = DATA.bands.filter((band) => band.figures.length);
    if (over.length) {
      const rows = [...new Set(over.flatMap((band) => band.figures.map(([label]) => label)))];
      const value = (band, label) => (band.figures.find(([name]) => name === label) || [0, "–"])[1];
      body.append(el("h3", { text: "Means over the seeds (95 % intervals; of two seeds both values)" }),
        el("table", { id: "seed-figures" }, row(["", ...over.map((band) => `${band.label}, ${counted(band.runs.length, "seed")}`)], "th"), ...rows.map((label) => row([label, ...over.map((band) => value(band, label))]))));
    }
  } else {
    body.append(el("table", {}, ...DATA.runs[0].config.map(([name, value]) => row([name, value]))));
  }
  $("settings").hidden = !several && !DATA.runs[0].config.length;
}
