"use strict";

const FIGURES = JSON.parse(document.getElementById("charts").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw() {
  for (const [place, figure] of Object.entries(FIGURES)) {
    const layout = structuredClone(figure.layout);
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) {
        Object.assign(layout[key], { gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false, automargin: true });
      }
    }
    for (const key of ["title", "template", "width", "height"]) delete layout[key];
    Object.assign(layout, {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 56, r: 16, t: 28, b: 48 },
    });
    Plotly.react(`chart-${place}`, structuredClone(figure.data), layout, { responsive: true, displayModeBar: false });
  }
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal: window.renewal?.signal });
