/* What stands above and below: facts, notes, last figures, settings. */
function drawFacts() {
  $("facts").textContent = DATA.facts.map(([label, value]) => `${label} ${value}`).join(" · ");
  const notes = DATA.runs.flatMap((run) => run.notes.map((note) => (DATA.runs.length > 1 ? `${run.label}: ${note}` : note)));
  $("notes").replaceChildren(...notes.map((text) => el("p", { class: "note", text })));
  $("notes").hidden = !notes.length;
  if (DATA.runs.length === 1 && DATA.runs[0].figures.length) {
    for (const [label, value] of DATA.runs[0].figures) {
      const [main, ...detail] = value.split(" (");
      const figure = el("b", { text: main + " " });
      if (detail.length) figure.append(el("small", { text: detail.join(" (").replace(")", "") }));
      $("figures").append(el("div", { class: "figure" }, figure, el("span", { text: label })));
    }
    $("figures").hidden = false;
  }
}
function drawSettings() {
  const row = (cells, tag = "td") => el("tr", {}, ...cells.map((text) => el(tag, { text })));
  const body = $("settings-body"), several = DATA.runs.length > 1;
  const names = DATA.runs.map((run) => run.label);
  if (several) {
    $("credit").before($("settings"));  // what differs comes first
    $("settings-title").textContent = "What differs";
    body.append(el("h3", { text: DATA.differences.length ? "Settings" : "Nothing is set differently." }));
    if (DATA.differences.length) body.append(el("table", { id: "differences" }, row(["", ...names], "th"), ...DATA.differences.map(([name, values]) => row([name, ...values]))));
    const labels = [...new Set(DATA.runs.flatMap((run) => run.figures.map(([label]) => label)))];
    const figure = (run, label) => (run.figures.find(([name]) => name === label) || [0, "–"])[1];
    if (labels.length) body.append(el("h3", { text: "Results" }), el("table", { id: "last-figures" }, row(["", ...names], "th"), ...labels.map((label) => row([label, ...DATA.runs.map((run) => figure(run, label))]))));
  } else {
    body.append(el("table", {}, ...DATA.runs[0].config.map(([name, value]) => row([name, value]))));
  }
  $("settings").hidden = !several && !DATA.runs[0].config.length;
}
