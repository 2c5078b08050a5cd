// Heads: the table of layers and heads, and the maps of the heads of the layer in view.
Answer.heads = (function () {
  "use strict";
  const make = Answer.make, byId = Answer.byId, percent = Answer.percent;
  let data = null, to = "image", cells = [], at = [0, 0];

  function mass(layer, head) {
    return Answer.sum(data, to, layer, head, Answer.view.kept());
  }

  // ---- the table --------------------------------------------------------------------------------
  function build() {
    const matrix = byId("matrix"), layers = data.attention.layers, heads = data.attention.heads;
    const corner = make("div", { class: "mrow", role: "row" }, [make("span", { class: "mname", role: "columnheader" }, "layer")]);
    for (let h = 0; h < heads; h += 1) corner.append(make("span", { class: "mhead", role: "columnheader" }, heads <= 16 || h % 4 === 0 ? String(h) : ""));
    const rows = layers.map(function (layer, l) {
      const row = make("div", { class: "mrow", role: "row" }, [make("span", { class: "mname", role: "rowheader" }, String(layer))]);
      cells[l] = [];
      for (let h = 0; h < heads; h += 1) {
        const cell = make("button", { type: "button", class: "cell", role: "gridcell", tabindex: l + h === 0 ? "0" : "-1" });
        cell.addEventListener("click", function () { at = [l, h]; Answer.view.choose(l, h); });
        cell.addEventListener("keydown", function (event) { step(event, l, h); });
        row.append(cell);
        cells[l].push(cell);
      }
      return row;
    });
    matrix.replaceChildren.apply(matrix, [corner].concat(rows));
    matrix.classList.toggle("dense", heads > 12);
    matrix.style.setProperty("--heads", heads);
  }

  function step(event, l, h) {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!steps) return;
    event.preventDefault();
    const row = Math.min(Math.max(l + steps[0], 0), cells.length - 1), column = Math.min(Math.max(h + steps[1], 0), cells[0].length - 1);
    focusable(row, column);
    cells[row][column].focus();
  }
  function focusable(row, column) {
    cells[at[0]][at[1]].tabIndex = -1;
    at = [row, column];
    cells[row][column].tabIndex = 0;
  }

  function drawMatrix() {
    let top = 0, low = Infinity;
    const state = Answer.view.state;
    const values = cells.map(function (row, l) { return row.map(function (_, h) { const value = mass(l, h); top = Math.max(top, value); low = Math.min(low, value); return value; }); });
    cells.forEach(function (row, l) {
      row.forEach(function (cell, h) {
        const value = values[l][h], share = top > low ? (value - low) / (top - low) : 0, on = state.source === "attention" && String(state.layer) === String(l) && String(state.head) === String(h);
        cell.style.setProperty("--v", (0.08 + 0.92 * share).toFixed(3));
        cell.classList.toggle("strong", share > 0.4);
        cell.textContent = data.attention.heads <= 12 ? (100 * value).toFixed(0) : "";
        cell.title = "layer " + data.attention.layers[l] + ", head " + h + ": " + percent(value);
        cell.title += " on the " + to + (Answer.hasHead(data, l, h) ? "" : "; its map was left out");
        cell.setAttribute("aria-label", cell.title);
        cell.setAttribute("aria-selected", String(on));
      });
    });
    byId("matrix-low").textContent = percent(low);
    byId("matrix-high").textContent = percent(top);
    byId("matrix-what").textContent = to;
    byId("matrix-words").textContent = Answer.view.named(Answer.view.kept());
  }

  // ---- the strip --------------------------------------------------------------------------------
  function drawStrip() {
    const state = Answer.view.state, layer = state.layer, words = Answer.view.kept(), strip = byId("strip");
    const present = Answer.hasHead(data, layer, 0);
    byId("strip-empty").hidden = present;
    byId("strip-title").textContent = layer === "mean" ? "Heads, mean over layers" : layer === "max" ? "Heads, largest over layers" : "Heads of layer " + data.attention.layers[layer];
    if (!present) { strip.replaceChildren(); return; }
    const heads = [];
    for (let h = 0; h < data.attention.heads; h += 1) {
      const view = { source: "attention", layer: layer, head: h, sinks: state.sinks };
      heads.push({ head: h, view: view, mass: Answer.masses(data, view, words).image });
    }
    heads.sort(function (a, b) { return b.mass - a.mass || a.head - b.head; });
    const chosen = Array.from(state.chosen);
    strip.replaceChildren.apply(strip, heads.map(function (one) {
      const map = Answer.map(data, one.view, words), index = Answer.draw.strongest(data, map);
      const thumb = Answer.draw.thumbnail(data, index);
      Answer.draw.fillThumbnail(thumb, data, index, map, Answer.view.look());
      const lines = [make("span", { class: "hname" }, "head " + one.head), make("strong", { class: "num" }, percent(one.mass))];
      if (chosen.length) lines.push(make("small", { class: "num" }, "patches " + percent(Answer.view.onPatches(map, chosen))));
      const on = state.source === "attention" && String(state.head) === String(one.head);
      const button = make("button", { type: "button", class: "headcard", "aria-pressed": String(on), "data-head": one.head }, [thumb.box, make("span", { class: "hline" }, lines)]);
      button.addEventListener("click", function () {
        Answer.view.choose(layer, on ? "mean" : one.head);
        const again = strip.querySelector("[data-head='" + one.head + "']");
        if (again) again.focus();
      });
      return make("li", {}, button);
    }));
  }

  function start(found) {
    data = found;
    build();
    byId("matrix-to").addEventListener("input", function (event) { to = event.target.value; drawMatrix(); });
    Answer.view.onChange(function () { drawMatrix(); drawStrip(); });
  }
  return { start: start };
})();
