"use strict";
const $ = (id) => document.getElementById(id);
let DATA = JSON.parse($("data").textContent);  // a served page gets newer ones

/* In a frame of a notebook there is no address that one could hand on. */
const INSIDE = location.protocol === "about:";

/* Elements and text only: nothing of the data is ever parsed as markup. */
function el(tag, options = {}, ...children) {
  const { svg, text, on, ...attributes } = options;
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== null) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  for (const [name, listener] of Object.entries(on || {})) node.addEventListener(name, listener);
  node.append(...children);
  return node;
}
const svg = (tag, options = {}, ...children) => el(tag, { svg: true, ...options }, ...children);

function number(x, digits = 3) {
  if (x === null || x === undefined) return "–";
  const size = Math.abs(x);
  if (x === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return x.toExponential(Math.max(0, digits - 2)).replace("e+", "e").replace("-", "−").replace("e-", "e−");
  const text = size >= 1000 ? Math.round(x).toString() : Number(x.toPrecision(digits)).toString();
  return text.replace("-", "−");
}
const signed = (x) => (x > 0 ? "+" : "") + number(x);
const many = (n) => n.toLocaleString("en");
const counted = (n, noun) => `${many(n)} ${noun}${n === 1 ? "" : "s"}`;
const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

/* Characters that cannot be seen, or that would move others, get a sign: by code points (u), since tags and variation
   selectors lie beyond the first plane. U+FE0F, which turns a sign into an emoji, belongs where it stands. */
const UNSEEN = /(?!\ufe0f)[\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cf}\p{Zs}\p{Zl}\p{Zp}\ufff0-\ufffb]/u;
function sign(char) {
  const code = char.codePointAt(0);
  if (char === "\n") return "↵";
  if (char === "\t") return "⇥";
  if (char === "\r") return "␍";
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "␡";
  return "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}
function visible(text) {
  if (text === "") return [el("span", { class: "ctl", text: "◦", "data-part": "" })];
  const parts = [];
  let plain = "";
  for (const char of text) {
    // A zero-width joiner inside of an emoji belongs there.
    const joins = char === "\u200d" && /\p{Extended_Pictographic}/u.test(text);
    if (char === " " || !UNSEEN.test(char) || joins) { plain += char; continue; }
    if (plain) parts.push(plain);
    plain = "";
    parts.push(el("span", { class: "ctl", text: sign(char) }));
  }
  if (plain) parts.push(plain);
  return parts;
}
/* Text of several lines, its breaks kept. */
const visibleLines = (text) => text.split("\n").flatMap((line, index) => (index ? ["\n"] : []).concat(line ? visible(line) : []));
/* By characters, so that none is cut in half. */
const shortened = (text, most = 120) => (text.length <= most ? text : [...text].slice(0, most).join("") + "…");

const DASHES = ["", "6 3", "2 2", "8 2 2 2", "4 1", "1 3"];
/* The seeds of a setting have one colour. */
const hueOf = (run) => (DATA.bands.length ? DATA.bands.findIndex(({ runs }) => runs.includes(run)) : run);
function swatch(index) {
  const line = svg("line", { x1: 0, x2: 30, y1: 5, y2: 5, "stroke-width": 2.5, "stroke-dasharray": DASHES[index % 6] });
  line.style.stroke = `var(--run-${index % 6})`;
  return svg("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" }, line);
}
