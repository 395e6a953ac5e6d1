"use strict";

// fmx watch: looks for news every two seconds, and puts them into the page in place of the old contents.
{
  const PAUSE_MS = 2000;
  const line = document.getElementById("live");
  const here = document.currentScript; // the page's own script follows it
  const isContent = (node) => node !== line && node.localName !== "script";
  window.renewal = new AbortController(); // ends what the page's script has set up, when it runs again

  // What a person has chosen on the page, by where it is.
  function chosen() {
    const sorted = [...document.querySelectorAll("table.sortable")].map((table) => {
      const heads = [...table.tHead.rows[0].cells];
      const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
      return { id: table.id, column, order: heads[column]?.getAttribute("aria-sort") };
    });
    const pressed = [...document.querySelectorAll("[aria-pressed=true]")].map((button) => [button.parentElement.id, button.textContent]);
    const open = [...document.querySelectorAll("details")].map((each) => each.open);
    const boxes = [...document.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    return { sorted, pressed, open, boxes, place: [scrollX, scrollY] };
  }

  function choose({ sorted, pressed, open, boxes, place }) {
    for (const { id, column, order } of sorted) {
      const head = document.getElementById(id)?.tHead.rows[0].cells[column];
      for (let click = 0; head && order && click < 2 && head.getAttribute("aria-sort") !== order; click += 1) head.firstElementChild.click();
    }
    for (const [id, text] of pressed) {
      [...document.querySelectorAll(`[id="${id}"] > [aria-pressed=false]`)].find((button) => button.textContent === text)?.click();
    }
    document.querySelectorAll("details").forEach((each, at) => { each.open = open[at] ?? each.open; });
    document.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = boxes[at] ?? 0; });
    scrollTo(...place);
  }

  async function renew() {
    const next = new DOMParser().parseFromString(await (await fetch("/", { cache: "no-store" })).text(), "text/html");
    const before = chosen();
    window.renewal.abort();
    window.renewal = new AbortController();
    document.querySelectorAll(".js-plotly-plot").forEach((chart) => Plotly.purge(chart));
    document.body.style.minHeight = `${document.body.scrollHeight}px`; // or an empty page would scroll to its top
    for (const node of [...document.body.children].filter(isContent)) node.remove();
    line.after(...[...next.body.children].filter((node) => isContent(node) && node.id !== "live"));
    document.getElementById("charts").replaceWith(next.getElementById("charts"));
    document.title = next.title;
    line.dataset.version = next.getElementById("live").dataset.version;
    const again = document.createElement("script");
    again.textContent = here.nextElementSibling.textContent;
    document.body.append(again);
    again.remove();
    choose(before);
    document.body.style.minHeight = "";
  }

  async function look() {
    setTimeout(look, PAUSE_MS);
    let state;
    try {
      state = await (await fetch("/state", { cache: "no-store" })).json();
    } catch {
      line.textContent = "fmx watch has ended, or cannot be reached: this page stays as it is.";
      return;
    }
    line.textContent = state.line;
    if (String(state.version) !== line.dataset.version && !String(getSelection())) await renew();
  }
  setTimeout(look, PAUSE_MS);
}
