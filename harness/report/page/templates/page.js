"use strict";
// Progressive enhancement: without JavaScript, and on paper, the page shows all its content.
const make = (tag, fields = {}, ...inside) => {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...inside);
  return node;
};

function sorting(table) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) return;
  const key = (row, at) => row.cells[at].dataset.value ?? row.cells[at].firstChild?.textContent.trim() ?? "";
  for (const head of table.tHead.rows[0].cells) {
    const button = make("button", { type: "button", className: "sort" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const order = (a, b) => {
        const [x, y] = [key(a, head.cellIndex), key(b, head.cellIndex)];
        if (!numeric) return (up ? 1 : -1) * x.localeCompare(y);
        const [p, q] = [parseFloat(x), parseFloat(y)];
        if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q); // cells without a number stay at the end
        return up ? p - q : q - p;
      };
      body.append(...[...body.rows].sort(order));
    });
  }
}

function filtering(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 6) return;
  const matches = make("output", { className: "found" });
  const box = make("input", { type: "search", className: "filter-box", placeholder: "such as: confirm 0.1 -pruned" });
  const look = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (text) => words.every((word) => (word[0] === "-" ? word === "-" || !text.includes(word.slice(1)) : text.includes(word)));
    let kept = 0;
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      const here = fits(text);
      row.classList.toggle("sifted", !here);
      kept += here;
    }
    matches.textContent = words.length ? `${kept} of ${rows.length} rows` : "";
  };
  box.addEventListener("input", look);
  const label = make("label", {}, "Filter rows ", box);
  table.closest(".scroll").before(make("p", { className: "tools" }, label, " ", matches));
}

function arms(sweep) {
  const places = new Map();
  for (const row of sweep.querySelectorAll(":is(section[id$=answer], section[id$=arms]) tr[data-arm]"))
    places.set(row.dataset.arm, row.cells[0].querySelector(".swatch").nextSibling.textContent.trim());
  if (places.size < 2) return;
  const box = make("fieldset", { className: "switch arms" }, make("legend", {}, "Show"));
  for (const [place, name] of [...places].sort(([a], [b]) => a - b)) {
    const tick = make("input", { type: "checkbox", checked: true, value: place });
    tick.addEventListener("change", () => {
      for (const node of sweep.querySelectorAll(`[data-arm="${place}"]`)) node.classList.toggle("off", !tick.checked);
    });
    box.append(make("label", {}, tick, make("span", { className: `swatch c${place % 6} s${Math.floor(place / 6) % 4}` }), name));
  }
  sweep.querySelector("section[id$=curves]")?.querySelector("h2,h3").after(box);
}

function choice(columns) {
  const names = columns.map((column) => column.querySelector("b").textContent);
  const boxes = [0, 1].map((chosen) =>
    make("select", {}, ...names.map((name, at) => make("option", { value: at, selected: at === chosen }, name))),
  );
  const show = () => {
    const chosen = boxes.map((box) => columns[box.value]);
    for (const column of columns) column.hidden = !chosen.includes(column);
    columns[0].parentNode.prepend(...new Set(chosen));
  };
  for (const box of boxes) box.addEventListener("change", show);
  const labels = ["Compare ", " and "].map((text, at) => make("label", {}, text, boxes[at]));
  columns[0].parentNode.before(make("p", { className: "tools" }, ...labels));
}

function passages(sweep) {
  const columns = [...sweep.querySelectorAll(".passage")];
  if (columns.length > 2) choice(columns);
  const groups = [...sweep.querySelectorAll(".tokens")];
  const reading = sweep.querySelector(".reading");
  if (!groups.length) return;
  const show = (at) => {
    const parts = [];
    for (const group of groups) {
      for (const old of group.querySelectorAll(".at")) old.classList.remove("at");
      const token = group.children[at];
      if (!token || group.closest(".off, [hidden]")) continue;
      token.classList.add("at");
      parts.push(`${group.parentNode.querySelector("b").textContent}: ${token.dataset.title}`);
    }
    reading.textContent = parts.join(" · ");
  };
  for (const group of groups) {
    const tokens = [...group.children];
    tokens.forEach((token, at) => {
      token.dataset.title = token.title;
      token.removeAttribute("title");
      token.addEventListener("mouseenter", () => show(at));
    });
    // The whole passage is one tab stop; arrow keys move between tokens.
    let at = 0;
    group.tabIndex = 0;
    group.addEventListener("focus", () => show(at));
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
      if (event.key === "Home") at = 0;
      else if (event.key === "End") at = tokens.length - 1;
      else if (step) at = Math.min(tokens.length - 1, Math.max(0, at + step));
      else return;
      event.preventDefault();
      show(at);
    });
  }
}

function pairs(sweep) {
  const box = sweep.querySelector(".pair");
  const { names, runs } = JSON.parse(box.dataset.runs);
  if (runs.length < 2) return;
  const out = make("div");
  const pick = (label, chosen) => {
    const select = make("select", {}, ...runs.map((run, at) => make("option", { value: at, selected: at === chosen }, run.name)));
    select.addEventListener("change", show);
    box.append(make("label", {}, label, select), " ");
    return select;
  };
  const show = () => {
    const [a, b] = [runs[first.value], runs[second.value]];
    const rows = names.map((name, at) => [name, a.values[at], b.values[at]]).filter(([, x, y]) => x !== y);
    const line = ([name, x, y]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, x), make("td", {}, y));
    const head = ["Parameter or result", "First", "Second"].map((text) => make("th", { scope: "col" }, text));
    out.replaceChildren(
      rows.length
        ? make("table", { className: "data" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows.map(line)))
        : make("p", {}, "These two runs have the same parameters and results."),
    );
  };
  box.append(make("p", {}, "Compare any two runs:"));
  const last = runs.findIndex((run) => run.arm !== runs[0].arm);
  const first = pick("First ", 0), second = pick("Second ", last < 0 ? 1 : last);
  box.append(make("div", { className: "scroll" }, out));
  box.hidden = false;
  show();
}

// Values of a figure: marks have a title, lines are read at any point of their x axis.
function readout(figure) {
  const svg = figure.querySelector("svg");
  const marks = [...svg.querySelectorAll("[data-read]")];
  const panels = [...svg.querySelectorAll("[data-panel]")].map((node) => ({ node, ...JSON.parse(node.dataset.panel) }));
  if (!marks.length && !panels.length) return;
  const out = make("p", { className: "readout", role: "status" });
  figure.querySelector(".scroll").after(out);
  const titled = (node) => node.querySelector("title").textContent;
  const shown = (node) => !node.closest(".off");

  const pick = (mark) => {
    for (const other of marks) other.classList.toggle("at", other === mark);
    out.textContent = titled(mark);
  };
  for (const mark of marks) mark.addEventListener("pointerenter", () => pick(mark));

  const scale = ([low, high], share, log) => (log ? low * (high / low) ** share : low + (high - low) * share);
  const height = (line, x) => {
    line.points ??= [...line.querySelector("path").getAttribute("d").matchAll(/(-?[\d.]+) (-?[\d.]+)/g)].map((p) => [+p[1], +p[2]]);
    const next = line.points.findIndex((point) => point[0] >= x);
    if (next < 0 || (next === 0 && line.points[0][0] > x + 0.5)) return NaN;
    const [[x0, y0], [x1, y1]] = [line.points[Math.max(0, next - 1)], line.points[next]];
    return x1 > x0 ? y0 + ((y1 - y0) * (x - x0)) / (x1 - x0) : y1;
  };
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const large = (value) => short.format(value).replace(/[KB]$/, (unit) => ({ K: "k", B: "G" })[unit]).replace(/(?=[kMGT]$)/, " ");
  let cursor;
  const look = (panel, x) => {
    const [x0, y0, x1, y1] = panel.box;
    cursor?.remove();
    cursor = document.createElementNS(svg.namespaceURI, "path");
    cursor.setAttribute("d", `M ${x} ${y0} V ${y1}`);
    cursor.setAttribute("style", "stroke: currentColor; stroke-width: .6; opacity: .6; pointer-events: none");
    panel.node.append(cursor);
    const at = scale(panel.xs, (x - x0) / (x1 - x0), panel.log[0]);
    const values = [...panel.node.querySelectorAll("[data-line]")].filter(shown).flatMap((line) => {
      const y = height(line, x);
      const value = scale(panel.ys, (y1 - y) / (y1 - y0), panel.log[1]);
      return isNaN(y) ? [] : [`${titled(line).split("\n")[0]} ${value.toFixed(3).replace("-", "−")}`];
    });
    out.textContent = `${panel.name} at ${large(at)} ${panel.x}: ${values.join(" · ") || "no line"}`;
  };
  svg.addEventListener("pointermove", (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const panel = panels.find(({ box: [x0, y0, x1, y1] }) => x >= x0 && x <= x1 && y >= y0 && y <= y1);
    if (panel) look(panel, x);
  });

  // The figure is one tab stop; arrow keys move between its marks, or along the x axis and between panels.
  let place = 0, row = 0;
  const move = () => {
    if (panels.length) {
      const [x0, , x1] = panels[row].box;
      return look(panels[row], x0 + ((x1 - x0) * place) / 40);
    }
    const seen = marks.filter(shown);
    if (seen.length) pick(seen[Math.min(place, seen.length - 1)]);
  };
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("focus", move);
  svg.addEventListener("keydown", (event) => {
    const last = panels.length ? 40 : marks.filter(shown).length - 1;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const turn = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) place = Math.min(last, Math.max(0, place + step));
    else if (turn && panels.length > 1) row = (row + turn + panels.length) % panels.length;
    else return;
    event.preventDefault();
    move();
  });
}

for (const table of document.querySelectorAll("table.data")) {
  sorting(table);
  if (table.classList.contains("filter")) filtering(table);
}
for (const figure of document.querySelectorAll("figure")) {
  readout(figure);
  zooming(figure);
}
for (const sweep of document.querySelectorAll(".sweep")) {
  arms(sweep);
  passages(sweep);
  pairs(sweep);
}

// A box is a tab stop only while it can be scrolled.
const boxes = document.querySelectorAll(".scroll");
const stops = () => {
  for (const box of boxes) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("resize", stops);
addEventListener("change", stops);
stops();

// Print everything: open all <details> before printing, and restore them afterwards.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => folded.forEach((one) => (one.open = false)));

// A link to a row that is filtered out or inside closed <details> shows it again.
const reveal = () => {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.classList.remove("sifted", "off");
  for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
};
addEventListener("hashchange", reveal);
reveal();
