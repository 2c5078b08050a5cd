// The answer beside the image: words show their patches, patches show their words.
Answer.view = (function () {
  "use strict";
  const make = Answer.make, byId = Answer.byId, percent = Answer.percent, number = Answer.number;
  let data = null;
  const state = {
    pinned: new Set(), hovered: null,  // words
    chosen: new Set(), pointed: null,  // patches, numbered over all images
    source: "attention", layer: "mean", head: "mean", sinks: false,
    opacity: 0.8, scale: "linear", maximum: "own", colours: "heat",
    parts: [], cursors: [],
  };
  const listeners = [], tables = {};
  let stages = [], buttons = [], sharedMaximum = { key: "", value: 0 };

  function all() { return data.words.map(function (_, i) { return i; }); }
  function kept() { return state.pinned.size ? Array.from(state.pinned).sort(function (a, b) { return a - b; }) : all(); }
  function current() { return state.hovered === null ? kept() : [state.hovered]; }
  function look() {
    tables[state.colours] = tables[state.colours] || Answer.draw.table(data.colours[state.colours]);
    return { table: tables[state.colours], opacity: state.opacity, scale: state.scale };
  }
  // Relevancy is known of some words only.
  function known(words) {
    if (state.source === "attention") return words;
    const found = data.relevancy.find(function (one) { return one.through === state.source; });
    return words.filter(function (w) { return found.words.includes(w); });
  }
  function named(words) {
    if (words.length === data.words.length && words.length > 1) return "the whole answer";
    const texts = words.slice(0, 4).map(function (w) { return "“" + data.words[w].text + "”"; });
    return texts.join(", ") + (words.length > 4 ? " and " + (words.length - 4) + " more" : "");
  }
  function where() {
    if (state.source !== "attention") return "relevancy through " + { language: "the language model", vision: "the vision encoder", both: "language model and vision encoder" }[state.source];
    const layer = state.layer === "mean" ? "mean over layers" : state.layer === "max" ? "largest over layers" : "layer " + data.attention.layers[state.layer];
    const head = state.head === "mean" ? "mean over heads" : state.head === "max" ? "largest over heads" : "head " + state.head;
    return "attention, " + layer + ", " + head + (state.sinks ? ", without sinks" : "");
  }

  // ---- patches ----------------------------------------------------------------------------------
  function imageOf(patch) {
    let found = 0;
    data.images.forEach(function (image, i) { if (patch >= image.start) found = i; });
    return found;
  }
  function boxOf(patch) {
    const image = data.images[imageOf(patch)];
    return image.boxes[patch - image.start];
  }
  function placeName(patch) {
    const i = imageOf(patch), image = data.images[i], token = patch - image.start;
    for (const block of image.blocks) {
      const at = block.tokens.indexOf(token);
      if (at < 0) continue;
      const place = "row " + (1 + Math.floor(at / block.cols)) + ", column " + (1 + at % block.cols);
      const part = image.blocks.length > 1 ? " of the " + block.name : "";
      return place + part + (data.images.length > 1 ? " of image " + (i + 1) : "");
    }
    return "token " + token;
  }
  // "patch 33 (row 5, column 6)"; summed places are no patches and have no number of their own.
  function patchName(patch, name) {
    const own = name || (data.side > 1 ? "" : "patch " + (patch - data.images[imageOf(patch)].start));
    return own ? own + " (" + placeName(patch) + ")" : "patches in " + placeName(patch);
  }
  // The smallest patch at a point, given as shares of the width and the height.
  function patchAt(i, x, y) {
    const image = data.images[i], part = state.parts[i];
    let best = null, least = Infinity;
    image.blocks.forEach(function (block, b) {
      if (part >= 0 && part !== b) return;
      block.tokens.forEach(function (token) {
        const box = token >= 0 && image.boxes[token];
        if (!box || x < box[0] || x >= box[2] || y < box[1] || y >= box[3]) return;
        const size = Answer.draw.area(box);
        if (size < least) { least = size; best = image.start + token; }
      });
    });
    return best;
  }

  function patchesNow() {
    if (state.pointed !== null && !state.chosen.size) return [state.pointed];
    return Array.from(state.chosen);
  }
  function onPatches(map, patches) {
    let total = 0;
    patches.forEach(function (p) { total += map[p]; });
    return total / (patches.length || 1);
  }

  // ---- drawing ----------------------------------------------------------------------------------
  function maximumOfAll() {
    const key = [state.source, state.layer, state.head, state.sinks, state.parts].join("|");
    if (sharedMaximum.key === key) return sharedMaximum.value;
    let top = 0;
    all().forEach(function (w) {
      const map = Answer.map(data, state, [w]);
      if (map) data.images.forEach(function (image, i) {
        top = Math.max(top, Answer.draw.largest(Answer.draw.field(image, map, state.parts[i]).values));
      });
    });
    sharedMaximum = { key: key, value: top };
    return top;
  }

  function drawMap(map) {
    if (!map) {  // a word without relevancy: the image alone
      stages.forEach(function (stage) { stage.heat.getContext("2d").clearRect(0, 0, stage.heat.width, stage.heat.height); });
      byId("legend-high").textContent = "–";
      return;
    }
    const fields = data.images.map(function (image, i) { return Answer.draw.field(image, map, state.parts[i]); });
    let top = 0;
    fields.forEach(function (one) { top = Math.max(top, Answer.draw.largest(one.values)); });
    const maximum = state.maximum === "shared" ? maximumOfAll() : top;
    stages.forEach(function (stage, i) { Answer.draw.paint(stage.heat, fields[i], maximum, look()); });
    drawLegend(map, maximum, top);
  }

  function drawLegend(map, maximum, top) {
    const ramp = new Float32Array(256);
    for (let i = 0; i < 256; i += 1) ramp[i] = i / 255;
    Answer.draw.paint(byId("legend"), { values: ramp, width: 256, height: 1 }, 1, look());
    let value = 0;
    for (const one of map) if (one > value) value = one;
    const scale = maximum > 0 && top > 0 ? maximum / top : 1;
    byId("legend-high").textContent = (state.source === "attention" ? percent(value * scale) : number(value * scale)) + " in a patch";
  }

  function drawMarks() {
    stages.forEach(function (stage, i) {
      stage.marks.replaceChildren();
      const add = function (patch, kind) {
        const box = imageOf(patch) === i && boxOf(patch);
        if (!box) return;
        stage.marks.append(make("svg:rect", {
          class: kind, x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1],
        }));
      };
      state.chosen.forEach(function (patch) { add(patch, "ring under"); add(patch, "ring"); });
      if (state.pointed !== null) { add(state.pointed, "point under"); add(state.pointed, "point"); }
    });
  }

  function drawWords() {
    const patches = patchesNow();
    const values = all().map(function (w) {
      if (patches.length) {
        const map = Answer.map(data, state, [w]);
        return map ? onPatches(map, patches) : NaN;
      }
      if (state.source === "attention") return Answer.masses(data, state, [w]).image;
      const found = data.relevancy.find(function (one) { return one.through === state.source; });
      const row = found.words.indexOf(w);
      return row < 0 ? NaN : found.shares[row][0];
    });
    let top = 0;
    values.forEach(function (value) { if (value > top) top = value; });
    buttons.forEach(function (button, w) {
      const value = values[w], isMap = patches.length > 0;
      button.classList.toggle("tinted", isMap);
      button.style.setProperty("--v", isMap && top > 0 && value > 0 ? (value / top).toFixed(3) : "0");
      button.setAttribute("aria-pressed", String(state.pinned.has(w)));
      const text = state.source === "attention" || !isMap ? percent(value) : number(value);
      button.lastElementChild.textContent = text;
      button.setAttribute("aria-label", data.words[w].text + ", " + text + (isMap ? " on the patches" : " on the image"));
    });
    byId("clear-words").hidden = !state.pinned.size;
    byId("clear-patches").hidden = !state.chosen.size;
    byId("hint").textContent = patches.length
      ? "Below each word: its " + (state.source === "attention" ? "attention to" : "relevancy of") + (state.chosen.size ? " the " + (state.chosen.size === 1 ? "patch" : state.chosen.size + " patches (mean)") + " you chose." : " the patch you point at.")
      : "Below each word: the share of its " + (state.source === "attention" ? "attention" : "relevancy") + " that is on the image. Point at a word to see where, click to keep it; click patches, or draw a frame around some, to see which words looked there.";
  }

  function drawNumbers(map) {
    const words = known(current()), rows = [], parts = [];
    if (!words.length) {
      byId("about").replaceChildren(make("strong", {}, named(current())), " has no relevancy map: it was not explained");
      byId("numbers").replaceChildren();
      byId("split").replaceChildren();
      byId("others").hidden = true;
      return;
    }
    if (state.source === "attention") {
      const found = Answer.masses(data, state, words);
      parts.push(["image", "on the image", found.image], ["question", "on the question", found.question], ["other", "elsewhere", found.other]);
    } else {
      const one = data.relevancy.find(function (r) { return r.through === state.source; });
      let image = 0, count = 0;
      words.forEach(function (w) { const row = one.words.indexOf(w); if (row >= 0) { image += one.shares[row][0]; count += 1; } });
      if (count) parts.push(["image", "on the image", image / count], ["question", "on the text", 1 - image / count]);
    }
    parts.forEach(function (part) { rows.push([part[1], percent(part[2]), part[0]]); });
    const spread = map ? Answer.entropy(map) : NaN;
    rows.push(["entropy in nats", isFinite(spread) ? spread.toFixed(2) : "–", ""]);
    rows.push(["as if evenly on", isFinite(spread) ? Math.exp(spread).toFixed(0) + " of " + data.n : "–", "spread"]);
    const lost = map ? placeless(map) : null;
    if (lost !== null) rows.push(["on tokens without a place", percent(lost), ""]);
    if (words.length === 1) rows.push(["probability", percent(data.words[words[0]].probability), ""]);
    byId("about").replaceChildren(make("strong", {}, named(words)), " · " + where());
    byId("numbers").replaceChildren.apply(byId("numbers"), rows.map(function (row) {
      return make("div", { class: row[2] }, [make("dt", {}, row[0]), make("dd", {}, row[1])]);
    }));
    const split = byId("split");
    split.replaceChildren.apply(split, parts.map(function (part) {
      const piece = make("span", { class: part[0] });
      piece.style.width = (100 * part[2]).toFixed(2) + "%";
      return piece;
    }));
    split.setAttribute("aria-label", parts.map(function (part) { return part[1] + " " + percent(part[2]); }).join(", "));
    drawOthers(words);
  }

  // Image tokens that end rows and the like are not drawn; null where there are none.
  function placeless(map) {
    let lost = 0, total = 0, some = false;
    data.images.forEach(function (image) {
      image.boxes.forEach(function (box, i) {
        const value = Math.max(map[image.start + i], 0);
        total += value;
        if (!box) { some = true; lost += value; }
      });
    });
    return some ? lost / (total || 1) : null;
  }

  function drawOthers(words) {
    const box = byId("others"), one = words.length === 1;
    box.hidden = !one;
    if (!one) return;
    const word = data.words[words[0]];
    const items = data.tokens.slice(word.start, word.start + word.tokens).map(function (token) {
      return make("p", {}, [make("span", { class: "note" }, "Instead of “" + token.text + "” (" + percent(token.probability) + "): ")].concat(
        token.alternatives.filter(function (a) { return a[0] !== token.text; }).slice(0, 4).map(function (a) {
          return make("span", { class: "top" }, [a[0] + " ", make("small", {}, percent(a[1]))]);
        })));
    });
    box.replaceChildren.apply(box, items);
  }

  function tell(patch, map) {
    if (patch === null || !map) { byId("status").textContent = "\u00a0"; return; }
    let above = 0;
    for (const value of map) if (value > map[patch]) above += 1;
    const value = state.source === "attention" ? percent(map[patch]) : number(map[patch]);
    const name = patchName(patch);
    byId("status").textContent = name[0].toUpperCase() + name.slice(1) + ": " + value + " for " + named(known(current())) +
      ", rank " + (above + 1) + " of " + data.n + (state.chosen.has(patch) ? "; chosen" : "");
  }

  // What is pointed at changes often and redraws little; what is chosen redraws everything.
  function refresh(isChoice) {
    const map = Answer.map(data, state, current());
    drawMap(map);
    drawMarks();
    drawWords();
    drawNumbers(map);
    tell(state.pointed, map);
    if (isChoice) listeners.forEach(function (listener) { listener(); });
  }
  function refreshPatches() {
    drawMarks();
    drawWords();
    tell(state.pointed, Answer.map(data, state, current()));
  }

  // ---- controls ---------------------------------------------------------------------------------
  function choose(layer, head) {
    state.layer = layer;
    state.head = Answer.hasHead(data, layer, head) ? head : "mean";
    if (!Answer.hasHead(data, layer, "mean")) state.layer = "mean";
    state.source = "attention";
    showControls();
    refresh(true);
  }

  function showControls() {
    const form = byId("controls");
    form.elements.source.value = state.source;
    byId("layer").value = String(state.layer);
    Array.from(byId("head").options).forEach(function (option) { option.disabled = !Answer.hasHead(data, state.layer, option.value); });
    byId("head").value = String(state.head);
    byId("attention-controls").hidden = state.source !== "attention";
    byId("opacity-out").textContent = Math.round(100 * state.opacity) + "%";
  }

  function options(select, list) {
    select.replaceChildren.apply(select, list.map(function (item) {
      const option = make("option", { value: item[0] }, item[1]);
      option.disabled = Boolean(item[2]);
      return option;
    }));
  }

  function controls() {
    const layers = data.attention.layers;
    options(byId("layer"), [["mean", "mean of " + layers.length], ["max", "largest of " + layers.length]].concat(layers.map(function (layer, i) {
      return [i, String(layer) + (Answer.hasHead(data, i, 0) || !Answer.hasHead(data, i, "mean") ? "" : " (no single heads)"), !Answer.hasHead(data, i, "mean")];
    })));
    const heads = [["mean", "mean of " + data.attention.heads], ["max", "largest of " + data.attention.heads]];
    for (let h = 0; h < data.attention.heads; h += 1) heads.push([h, String(h)]);
    options(byId("head"), heads);
    options(byId("colours"), Object.keys(data.colours).map(function (name) { return [name, name]; }));
    const form = byId("controls");
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    form.addEventListener("input", function (event) {
      const id = event.target.id;
      if (event.target.name === "source") state.source = event.target.value;
      else if (id === "layer" || id === "head") { choose(byId("layer").value, byId("head").value); return; }
      else if (id === "sinks") state.sinks = event.target.checked;
      else if (id === "opacity") state.opacity = event.target.value / 100;
      else state[id] = event.target.value;
      showControls();
      refresh(true);
    });
    form.reset();
    showControls();
  }

  function wordButtons() {
    buttons = Array.from(document.querySelectorAll(".word"));
    buttons.forEach(function (button, w) {
      const enter = function () { if (state.hovered !== w) { state.hovered = w; refresh(false); } };
      const leave = function () { if (state.hovered === w) { state.hovered = null; refresh(false); } };
      button.addEventListener("pointerenter", function (event) { if (event.pointerType !== "touch") enter(); });
      button.addEventListener("pointerleave", leave);
      button.addEventListener("focus", function () { if (button.matches(":focus-visible")) enter(); });
      button.addEventListener("blur", leave);
      button.addEventListener("click", function () {
        if (!state.pinned.delete(w)) state.pinned.add(w);
        refresh(true);
      });
      button.addEventListener("keydown", function (event) {
        if (event.key === "Escape") clearWords();
        const to = event.key === "ArrowRight" ? w + 1 : event.key === "ArrowLeft" ? w - 1 : -1;
        if (to >= 0 && to < buttons.length) { event.preventDefault(); buttons[to].focus(); }
      });
    });
    byId("clear-words").addEventListener("click", clearWords);
    byId("clear-patches").addEventListener("click", clearPatches);
  }
  function clearWords() { state.pinned.clear(); state.hovered = null; refresh(true); }
  function clearPatches() { state.chosen.clear(); refresh(true); }
  function toggle(patch) {
    if (patch === null) return;
    if (!state.chosen.delete(patch)) state.chosen.add(patch);
    refresh(true);
  }

  function stage(figure, i) {
    const box = figure.querySelector(".stage");
    const found = { box: box, heat: box.querySelector(".heat"), marks: box.querySelector(".marks") };
    const point = function (patch) { if (state.pointed !== patch) { state.pointed = patch; refreshPatches(); } };
    const at = function (event) {
      const frame = found.heat.getBoundingClientRect();
      return patchAt(i, (event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height);
    };
    box.addEventListener("pointermove", function (event) { if (event.pointerType !== "touch") point(at(event)); });
    box.addEventListener("pointerleave", function () { point(null); });
    box.addEventListener("click", function (event) { if (!dragged(found)) toggle(at(event)); });
    frames(found, i);
    box.addEventListener("focus", function () { if (box.matches(":focus-visible")) point(cursor(i)); });
    box.addEventListener("blur", function () { point(null); });
    box.addEventListener("keydown", function (event) {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      if (event.key in steps) { event.preventDefault(); move(i, steps[event.key]); point(cursor(i)); }
      else if (event.key === " " || event.key === "Enter") { event.preventDefault(); state.pointed = cursor(i); toggle(state.pointed); }
      else if (event.key === "Escape") clearPatches();
    });
    const image = data.images[i], select = figure.querySelector("select");
    if (image.blocks.length > 1) {
      figure.querySelector(".part").hidden = false;
      options(select, [[-1, "all"]].concat(image.blocks.map(function (block, b) { return [b, block.name]; })));
      select.value = "-1";
      select.addEventListener("input", function () { state.parts[i] = Number(select.value); state.cursors[i] = null; refresh(true); });
    }
    return found;
  }

  // A frame drawn with mouse or pen chooses the patches whose middles are in it; touch scrolls.
  function frames(found, i) {
    let from = null;
    const share = function (event) {
      const frame = found.heat.getBoundingClientRect();
      return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height].map(function (v) { return Math.min(Math.max(v, 0), 1); });
    };
    const rectangle = function (to) {
      return [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
    };
    found.box.addEventListener("pointerdown", function (event) {
      found.frame = null;
      from = event.pointerType === "touch" || event.button ? null : share(event);
    });
    found.box.addEventListener("pointermove", function (event) {
      if (!from || !(event.buttons & 1)) return;
      const edges = rectangle(share(event));
      if (!found.frame && Math.max(edges[2] - edges[0], edges[3] - edges[1]) < 0.02) return;
      if (!found.frame) found.box.setPointerCapture(event.pointerId);
      found.frame = edges;
      drawMarks();
      found.marks.append(make("svg:rect", { class: "point", x: edges[0], y: edges[1], width: edges[2] - edges[0], height: edges[3] - edges[1] }));
    });
    found.box.addEventListener("pointerup", function () {
      if (from && found.frame) {
        within(i, found.frame).forEach(function (patch) { state.chosen.add(patch); });
        refresh(true);
      }
      from = null;
    });
  }
  // A click that ends a frame is none.
  function dragged(found) {
    const was = Boolean(found.frame);
    found.frame = null;
    return was;
  }
  function within(i, edges) {
    const image = data.images[i];
    return placed(i).filter(function (token) {
      const box = image.boxes[token], x = (box[0] + box[2]) / 2, y = (box[1] + box[3]) / 2;
      return x >= edges[0] && x <= edges[2] && y >= edges[1] && y <= edges[3];
    }).map(function (token) { return image.start + token; });
  }

  // The keyboard's patch; at first the strongest. A step goes to the patch beyond its edge, which may
  // be of another tile.
  function cursor(i) {
    if (state.cursors[i] === null) {
      const image = data.images[i], map = Answer.map(data, state, current());
      let top = -1;
      placed(i).forEach(function (token) {
        const value = map ? map[image.start + token] : 0;
        if (value > top) { top = value; state.cursors[i] = image.start + token; }
      });
    }
    return state.cursors[i];
  }
  function move(i, step) {
    const box = boxOf(cursor(i)), beyond = 1e-4;
    const x = step[1] ? (step[1] > 0 ? box[2] + beyond : box[0] - beyond) : (box[0] + box[2]) / 2;
    const y = step[0] ? (step[0] > 0 ? box[3] + beyond : box[1] - beyond) : (box[1] + box[3]) / 2;
    const next = patchAt(i, x, y);
    if (next !== null) state.cursors[i] = next;
  }
  // Tokens of the chosen parts of an image that have a place.
  function placed(i) {
    const image = data.images[i], part = state.parts[i], found = [];
    image.blocks.forEach(function (block, b) {
      if (part < 0 || part === b) block.tokens.forEach(function (token) { if (token >= 0 && image.boxes[token]) found.push(token); });
    });
    return found;
  }

  function use(found) {
    data = found;
    state.parts = data.images.map(function () { return -1; });
    state.cursors = data.images.map(function () { return null; });
  }

  function start() {
    stages = Array.from(document.querySelectorAll(".shot")).map(stage);
    document.querySelector(".pictures").classList.toggle("several", stages.length > 1);
    wordButtons();
    controls();
    refresh(true);
  }

  return {
    use: use, start: start, state: state, choose: choose, kept: kept, current: current, named: named, where: where, look: look, patchName: patchName,
    all: all, onPatches: onPatches, onChange: function (listener) { listeners.push(listener); },
  };
})();
