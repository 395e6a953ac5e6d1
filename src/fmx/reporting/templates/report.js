"use strict";

const { curves: CURVES, onTest: ON_TEST, parts: PARTS } = JSON.parse(document.getElementById("charts").textContent);
const NUM_COLORS = 8;
const DASHES = ["solid", "dash", "dot"];
const CONFIG = { responsive: true, displayModeBar: false };
const MAX_MARKED = 40; // points, beyond which the markers of a curve run together
const SHARES = { autorangeoptions: { clipmin: -1, clipmax: 101 } }; // an interval may reach beyond, an axis need not
const MAX_NUMBERED = 20; // epochs up to which each has a number
const NARROW = innerWidth < 700;
const LONGEST = NARROW ? 18 : 44; // characters of a line of a label
const LINE = 16; // pixels of such a line

// Plotly interprets some HTML tags in texts.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// Break a label into lines, between its parts or within a long one. Nothing is cut: it may be what differs.
function lines(row) {
  const found = [];
  for (const part of row.short.split(" · ")) {
    const last = found.at(-1);
    if (last !== undefined && last.length + part.length + 3 <= LONGEST) found[found.length - 1] = `${last} · ${part}`;
    else found.push(...(part.match(new RegExp(`[^]{1,${LONGEST}}`, "gu")) ?? [part]));
  }
  return found;
}
const labelOf = (row) => lines(row).map(plain).join("<br>");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colorOf = (place) => css(`--c${place % NUM_COLORS}`);
const dashOf = (place) => DASHES[Math.floor(place / NUM_COLORS) % DASHES.length];
const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(2)} %`);
const scaled = (values) => values.map((value) => (value === null ? null : 100 * value));

function translucent(color, opacity) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${opacity})`;
}

function layout(extra) {
  const axis = { gridcolor: css("--grid"), zeroline: false, linecolor: css("--line"), ticks: "", automargin: true };
  const base = {
    dragmode: "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 16, t: 12, b: 48 },
    hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") }, align: "left", namelength: -1 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11.5 } },
    hovermode: "closest",
  };
  return { ...base, ...extra, xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis } };
}

function described(row) {
  const lines = [`<b>${plain(row.label)}</b>${row.onTest ? ` ${ON_TEST} validated on the test set` : ""}`];
  for (const [name, spread] of [["test", row.test], ["validation", row.val]]) {
    if (!spread) continue;
    const std = spread.std === null ? "" : ` ± ${(100 * spread.std).toFixed(2)}`;
    const interval = spread.low === null ? "" : `, 95 % interval ${percent(spread.low)} to ${percent(spread.high)}`;
    lines.push(`${name} ${percent(spread.mean)}${std} (n = ${spread.values.length})${interval}`);
  }
  if (row.params !== null) lines.push(`${row.params.toLocaleString("en")} parameters`);
  if (row.seconds) lines.push(`${row.seconds.mean.toFixed(1)} s of training`);
  return lines.join("<br>");
}

function errorBars(spreads, color) {
  return {
    type: "data", symmetric: false, color, thickness: 1.6, width: 5,
    array: spreads.map((spread) => (spread.high === null ? 0 : 100 * (spread.high - spread.mean))),
    arrayminus: spreads.map((spread) => (spread.low === null ? 0 : 100 * (spread.mean - spread.low))),
  };
}

function drawAccuracies(rows, mark) {
  const traces = rows.flatMap((row, place) => {
    const color = colorOf(place);
    const marks = { type: "scatter", mode: "markers", showlegend: false, hoverinfo: "text", hovertext: described(row) };
    const drawn = [
      { ...marks, x: scaled(row.test.values), y: row.test.values.map(() => place - 0.2),
        marker: { color: translucent(color, 0.6), size: 6 } },
      { ...marks, x: [100 * row.test.mean], y: [place], marker: { color, size: 11 }, error_x: errorBars([row.test], color) },
    ];
    if (row.val) {
      drawn.push({ ...marks, x: [100 * row.val.mean], y: [place + 0.22],
        marker: { color, size: 9, symbol: "diamond-open", line: { width: 1.8 } } });
    }
    return drawn;
  });
  const most = Math.max(...rows.map((row) => lines(row).length));
  const height = 90 + Math.max(40, LINE * most + 8) * rows.length;
  document.getElementById(`accuracies${mark}`).style.minHeight = `${height}px`;
  Plotly.react(`accuracies${mark}`, traces, layout({
    height,
    xaxis: { ...SHARES, title: { text: "accuracy %" } },
    yaxis: { tickvals: rows.map((_, place) => place), ticktext: rows.map(labelOf),
      range: [rows.length - 0.4, -0.6], showgrid: false, ticklabelstandoff: 8 },
  }), CONFIG);
}

function drawCurves(rows, mark, name) {
  const isShare = name.endsWith("accuracy");
  const factor = isShare ? 100 : 1;
  const traces = rows.flatMap((row, place) => {
    const curve = row.curves[name];
    if (!curve) return [];
    const group = { type: "scatter", legendgroup: String(place), name: labelOf(row) };
    const color = colorOf(place);
    const mean = curve.mean.map((value) => (value === null ? null : factor * value));
    const std = curve.std.map((value) => factor * (value ?? 0));
    const line = {
      ...group, x: curve.epoch, y: mean, line: { color, width: 2, dash: dashOf(place) }, marker: { size: 5 },
      mode: mean.length > MAX_MARKED ? "lines" : "lines+markers", hoverinfo: "text",
      hovertext: mean.map((value, at) => `${plain(row.label)}<br>epoch ${curve.epoch[at]}: ${value?.toFixed(isShare ? 2 : 4)}`
        + (curve.std[at] === null ? "" : ` ± ${std[at].toFixed(isShare ? 2 : 4)}`)),
    };
    if (curve.std.every((value) => value === null)) return [line];
    const above = mean.map((value, at) => value + std[at]);
    const below = mean.map((value, at) => value - std[at]);
    const band = {
      ...group, x: [...curve.epoch, ...curve.epoch.slice().reverse()], y: [...above, ...below.reverse()],
      fill: "toself", fillcolor: translucent(color, 0.14), line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
    };
    return [band, line];
  });
  const last = Math.max(...rows.flatMap((row) => row.curves[name]?.epoch ?? []));
  Plotly.react(`curves${mark}`, traces, layout({
    height: 400 + (NARROW ? 22 : 7) * rows.reduce((sum, row) => sum + lines(row).length, 0), // with room for the legend
    showlegend: true, // also for a single configuration: it says which one
    xaxis: { title: { text: "epoch" }, ...(last <= MAX_NUMBERED ? { dtick: 1 } : {}) },
    yaxis: { title: { text: CURVES[name] + (isShare ? " %" : "") } },
  }), CONFIG);
  for (const button of document.querySelectorAll(`#curve-choice${mark} button`)) {
    button.setAttribute("aria-pressed", String(button.dataset.curve === name));
  }
}

function drawAgainst(rows, target, title, valueOf, spreadOf) {
  const places = [...rows.keys()].filter((place) => valueOf(rows[place]) !== null);
  const values = places.map((place) => valueOf(rows[place]));
  const traces = places.map((place, at) => {
    const row = rows[place];
    const color = colorOf(place);
    const spread = spreadOf(row);
    return {
      type: "scatter", mode: "markers", x: [values[at]], y: [100 * row.test.mean],
      marker: { color, size: 11, symbol: place < NUM_COLORS ? "circle" : "square" }, hoverinfo: "text", hovertext: described(row),
      error_y: errorBars([row.test], color),
      error_x: { type: "data", array: [spread ?? 0], visible: spread !== null, color, thickness: 1.2, width: 4 },
    };
  });
  const wide = Math.min(...values) > 0 && Math.max(...values) > 10 * Math.min(...values);
  Plotly.react(target, traces, layout({
    showlegend: false, // the colours are those of the table
    xaxis: { title: { text: title }, type: wide ? "log" : "linear" },
    yaxis: { ...SHARES, title: { text: "test accuracy %" } },
  }), CONFIG);
}

const firstCurve = (rows) => Object.keys(CURVES).find((name) => rows.some((row) => row.curves[name]));
const SHOWN = PARTS.map(({ rows }) => firstCurve(rows));
const markOf = (part) => (part ? `-${part + 1}` : ""); // suffix of the ids of a data set's elements

function draw() {
  for (const chip of document.querySelectorAll(".chip")) chip.style.background = colorOf(Number(chip.dataset.color));
  PARTS.forEach(({ rows }, part) => {
    const mark = markOf(part);
    drawAccuracies(rows, mark);
    if (SHOWN[part]) drawCurves(rows, mark, SHOWN[part]);
    drawAgainst(rows, `against-time${mark}`, "training seconds", (row) => row.seconds?.mean ?? null, (row) => row.seconds.std);
    drawAgainst(rows, `against-params${mark}`, "parameters", (row) => row.params, () => null);
  });
}

function offerCurves(rows, part) {
  const choice = document.getElementById(`curve-choice${markOf(part)}`);
  for (const [name, title] of Object.entries(CURVES)) {
    if (!rows.some((row) => row.curves[name])) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.dataset.curve = name;
    button.addEventListener("click", () => { SHOWN[part] = name; drawCurves(rows, markOf(part), name); });
    choice.append(button);
  }
}

const NATURAL = new Intl.Collator("en", { numeric: true });
// Sorting: numbers by data-value, names in natural order, missing values always last. #sort=3 and #sort=-3 keep it in a link.
function compared(first, second, descending) {
  const [a, b] = [first, second].map((cell) => (cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value)));
  const lacks = (value) => value === "–" || Number.isNaN(value);
  if (lacks(a) || lacks(b)) return lacks(a) - lacks(b);
  const order = typeof a === "number" && typeof b === "number" ? a - b : NATURAL.compare(a, b);
  return descending ? -order : order;
}

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((a, b) => compared(a.cells[column], b.cells[column], descending)));
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  showPage(table);
}

// Long tables are shown page by page: a browser takes seconds to lay out thousands of rows.
const PAGE = 100; // rows
const PAGES = (window.pages ??= {}); // the page of each table; Infinity for all rows. A renewed page keeps it.

function showPage(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length <= PAGE) return;
  const last = Math.ceil(rows.length / PAGE) - 1;
  const page = PAGES[table.id] === Infinity ? Infinity : Math.min(PAGES[table.id] ?? 0, last);
  const first = page === Infinity ? 0 : page * PAGE;
  const end = page === Infinity ? rows.length : Math.min(first + PAGE, rows.length);
  rows.forEach((row, at) => { row.hidden = at < first || at >= end; });
  const bar = document.getElementById(`${table.id}-pages`);
  const [back, on, all] = bar.querySelectorAll("button");
  bar.querySelector("span").textContent = `rows ${(first + 1).toLocaleString("en")} to ${end.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  back.disabled = page === 0 || page === Infinity;
  on.disabled = page === last || page === Infinity;
  all.textContent = page === Infinity ? "pages" : "all rows";
}

function makePaged(table) {
  if (table.tBodies[0].rows.length <= PAGE) return;
  const bar = document.createElement("nav");
  bar.id = `${table.id}-pages`;
  bar.className = "choice pages";
  bar.setAttribute("aria-label", "pages of the table");
  const go = { "‹ back": (page) => page - 1, "next ›": (page) => page + 1, "all rows": (page) => (page === Infinity ? 0 : Infinity) };
  for (const [text, next] of Object.entries(go)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => { PAGES[table.id] = next(PAGES[table.id] ?? 0); showPage(table); });
    bar.append(button);
  }
  bar.append(document.createElement("span"));
  table.closest(".scroll").after(bar);
  showPage(table);
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", (event) => {
    if (event.isTrusted && PAGES[table.id] !== Infinity) PAGES[table.id] = 0; // live.js clicks too
    const isWord = head.classList.contains("word") || column === 0;
    const before = head.getAttribute("aria-sort");
    const descending = before ? before === "ascending" : !isWord; // the first click on numbers shows the highest first
    sortBy(table, column, descending);
    if (table.id === "leaderboard") history.replaceState(null, "", `#sort=${descending ? "-" : ""}${column + 1}`);
  }));
  if (table.id !== "leaderboard") return; // a link has room for one
  const asked = /^#sort=(-?)(\d+)$/.exec(location.hash);
  if (asked && heads[asked[2] - 1]) sortBy(table, asked[2] - 1, asked[1] === "-");
}

for (const table of document.querySelectorAll(".sortable, #unfinished")) makePaged(table);
for (const table of document.querySelectorAll(".sortable")) makeSortable(table);
PARTS.forEach(({ rows }, part) => offerCurves(rows, part));
if (PARTS.length) {
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal: window.renewal?.signal });
}
