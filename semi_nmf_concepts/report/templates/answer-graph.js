// The causal graph of a word: patches cut from the image and words around the target, by radius.
Answer.graph = (function () {
  "use strict";
  const make = Answer.make, byId = Answer.byId, number = Answer.number;
  const SIZE = 52, RING = 118, MARK = 7;  // of a patch; between rings; of a mark, in drawing units
  let data = null, graph = null, radius = 1, outside = false;

  function inside(node) { return node.kind === "target" || (node.radius > 0 && node.radius <= radius); }
  function listed() {
    return graph.nodes.map(function (node, i) { return Object.assign({ i: i }, node); }).filter(function (node) {
      return inside(node) || outside;
    });
  }

  // Rings around the target, as wide apart as the nodes on them need.
  function place(nodes) {
    const rings = new Map(), at = new Map();
    nodes.forEach(function (node) {
      const ring = node.kind === "target" ? 0 : node.radius > 0 ? node.radius : 1e6;
      rings.set(ring, (rings.get(ring) || []).concat(node));
    });
    let last = 0;
    Array.from(rings.keys()).sort(function (a, b) { return a - b; }).forEach(function (ring, level) {
      const members = rings.get(ring);
      if (ring === 0) { at.set(members[0].i, [0, 0]); return; }
      last = Math.max(last + RING, members.length * (SIZE + 34) / (2 * Math.PI));
      members.forEach(function (node, k) {
        // Each ring is turned by the golden angle, so that no more edges than need be lie on each other.
        const angle = 2 * Math.PI * k / members.length - Math.PI / 2 + 2.4 * (level - 1);
        at.set(node.i, [1.25 * last * Math.cos(angle), last * Math.sin(angle)]);
      });
    });
    return at;
  }

  // Half the width and height of what a node is drawn as.
  function extent(node) {
    if (node.patch !== null && box(node)) return [SIZE / 2, SIZE / 2];
    return [Math.min(12, Math.max(label(node).length, 2)) * 4.6 + 9, 15];
  }
  function box(node) { return data.images[node.image] && data.images[node.image].boxes[node.patch]; }
  function label(node) { return node.label.length > 12 ? node.label.slice(0, 11) + "…" : node.label; }

  // Where the line from the middle of a node to a point leaves its outline.
  function border(node, from, to, gap) {
    const half = extent(node), dx = to[0] - from[0], dy = to[1] - from[1], length = Math.hypot(dx, dy) || 1;
    const t = Math.min(dx ? half[0] / Math.abs(dx) : Infinity, dy ? half[1] / Math.abs(dy) : Infinity);
    const reach = Math.min(t * length + gap, length / 2);
    return [from[0] + dx * reach / length, from[1] + dy * reach / length];
  }

  // The mark at an end: 1 circle, 2 arrow, 3 tail; returns where the line stops.
  function mark(kind, end, other, group) {
    const dx = other[0] - end[0], dy = other[1] - end[1], length = Math.hypot(dx, dy) || 1, u = [dx / length, dy / length];
    const along = function (d, side) { return (end[0] + u[0] * d - u[1] * side).toFixed(1) + " " + (end[1] + u[1] * d + u[0] * side).toFixed(1); };
    if (kind === 2) group.append(make("svg:path", { class: "tip", d: "M" + along(0, 0) + "L" + along(1.6 * MARK, 0.75 * MARK) + "L" + along(1.6 * MARK, -0.75 * MARK) + "z" }));
    if (kind === 1) group.append(make("svg:circle", { class: "open", cx: end[0] + u[0] * MARK * 0.7, cy: end[1] + u[1] * MARK * 0.7, r: MARK * 0.7 }));
    const back = kind === 2 ? 1.4 * MARK : kind === 1 ? 1.4 * MARK : 0;
    return [end[0] + u[0] * back, end[1] + u[1] * back];
  }

  const SIGNS = { 1: ["o", "o"], 2: ["<", ">"], 3: ["–", "–"] };
  // The edge between two nodes in letters, as "o→": the mark at i, a line, the mark at j.
  function inLetters(i, j) {
    const atI = graph.marks[j][i], atJ = graph.marks[i][j];
    if (!atI || !atJ) return "";
    return SIGNS[atI][0] + "–" + SIGNS[atJ][1];
  }

  function drawNode(node, at, target) {
    const group = make("svg:g", { class: "node " + node.kind + (inside(node) ? "" : " out"), transform: "translate(" + at[0].toFixed(1) + " " + at[1].toFixed(1) + ")" });
    const half = extent(node), place = box(node);
    const about = node.label + (node.kind === "target" ? " (target)" : ", " + node.kind + ", weight " + number(node.weight) + ", radius " + (node.radius > 0 ? node.radius : "–"));
    group.append(make("svg:title", {}, about));
    if (node.patch !== null && place) {
      const image = data.images[node.image], w = image.width, h = image.height;
      group.append(make("svg:svg", {
        x: -half[0], y: -half[1], width: 2 * half[0], height: 2 * half[1], preserveAspectRatio: "none",
        viewBox: [place[0] * w, place[1] * h, (place[2] - place[0]) * w, (place[3] - place[1]) * h].join(" "),
      }, make("svg:use", { href: "#image-" + node.image, width: w, height: h })));
      group.append(make("svg:rect", { class: "frame", x: -half[0], y: -half[1], width: 2 * half[0], height: 2 * half[1], rx: 4 }));
    } else {
      group.append(make("svg:rect", { class: "pill", x: -half[0], y: -half[1], width: 2 * half[0], height: 2 * half[1], rx: 15 }));
      group.append(make("svg:text", { "text-anchor": "middle", dy: "0.36em" }, label(node)));
    }
    // On the side that no edge to the target crosses.
    if (node.kind !== "target" && inside(node)) group.append(make("svg:text", { class: "weight", "text-anchor": "middle", y: at[1] < 0 ? -half[1] - 6 : half[1] + 14 }, number(node.weight)));
    return group;
  }

  function drawGraph(nodes) {
    const svg = byId("pag"), at = place(nodes), edges = make("svg:g", {}), shapes = make("svg:g", {});
    const known = new Map(nodes.map(function (node) { return [node.i, node]; }));
    nodes.forEach(function (a) {
      nodes.forEach(function (b) {
        if (a.i >= b.i || !graph.marks[a.i][b.i]) return;
        const from = at.get(a.i), to = at.get(b.i);
        const start = border(a, from, to, 3), end = border(b, to, from, 3);
        const group = make("svg:g", { class: inside(a) && inside(b) ? "" : "out" });
        const s = mark(graph.marks[b.i][a.i], start, end, group), e = mark(graph.marks[a.i][b.i], end, start, group);
        group.prepend(make("svg:path", { class: "edge", d: "M" + s[0].toFixed(1) + " " + s[1].toFixed(1) + "L" + e[0].toFixed(1) + " " + e[1].toFixed(1) }));
        edges.append(group);
      });
    });
    let wide = 300, high = 120;  // so that few nodes are not drawn large
    nodes.forEach(function (node) {
      const half = extent(node), p = at.get(node.i);
      wide = Math.max(wide, Math.abs(p[0]) + half[0] + 12);
      high = Math.max(high, Math.abs(p[1]) + half[1] + 24);
      shapes.append(drawNode(known.get(node.i), p));
    });
    svg.setAttribute("viewBox", [-wide, -high, 2 * wide, 2 * high].map(Math.round).join(" "));
    svg.setAttribute("aria-label", "Causal graph of “" + graph.word + "”: " + (nodes.length - 1) + " nodes; the list beside it says which");
    svg.replaceChildren(edges, shapes);
  }

  function drawList(nodes) {
    const target = graph.nodes.findIndex(function (node) { return node.kind === "target"; });
    const shown = nodes.filter(function (node) { return node.kind !== "target"; }).sort(function (a, b) { return b.weight - a.weight; });
    const list = byId("nodes");
    list.replaceChildren.apply(list, shown.map(function (node) {
      const thumb = make("span", { class: "nthumb" });
      if (node.patch !== null && box(node)) {
        const image = data.images[node.image], b = box(node), w = image.width, h = image.height;
        thumb.append(make("svg:svg", { viewBox: [b[0] * w, b[1] * h, (b[2] - b[0]) * w, (b[3] - b[1]) * h].join(" "), preserveAspectRatio: "none", "aria-hidden": "true" },
          make("svg:use", { href: "#image-" + node.image, width: w, height: h })));
      }
      const edge = target >= 0 ? inLetters(node.i, target) : "";
      return make("li", { class: inside(node) ? "" : "out" }, [thumb,
        make("span", { class: "nlabel" }, [node.label + " ", make("small", {}, node.kind + (node.radius > 0 ? ", radius " + node.radius : ", outside") + (edge ? ", " + edge + " target" : ""))]),
        make("strong", { class: "num" }, number(node.weight))]);
    }));
    if (!shown.length) list.append(make("li", { class: "empty" }, "Nothing that this head attends to stays dependent on “" + graph.word + "” given the rest. A larger alpha, or another head, may tell more."));
  }

  function drawMap(nodes) {
    const place = byId("graph-map"), map = new Float32Array(data.n);
    nodes.forEach(function (node) {
      if (!inside(node) || node.image === null) return;
      const image = data.images[node.image], weight = Math.max(node.weight, 0);
      if (node.patch !== null) map[image.start + node.patch] = weight;
      if (node.query !== null) image.reads.row(node.query).forEach(function (share, i) { map[image.start + i] += weight * share; });
    });
    const index = Answer.draw.strongest(data, map);
    const thumb = Answer.draw.thumbnail(data, index, "Weights of the patches of the explanation");
    Answer.draw.fillThumbnail(thumb, data, index, map, Answer.view.look(), 240);
    place.replaceChildren(thumb.box);
  }

  function draw() {
    const nodes = listed();
    drawGraph(nodes);
    drawList(nodes);
    drawMap(nodes);
    const count = graph.nodes.filter(function (node) { return node.kind !== "target" && inside(node); }).length;
    byId("radius-out").textContent = String(radius);
    byId("graph-note").textContent = count + " of " + (graph.nodes.length - 1) + " nodes explain “" + graph.word + "” within radius " + radius +
      " (alpha " + number(graph.alpha) + ", " + graph.records + " records)";
  }

  function pick(i) {
    graph = data.causal[i];
    let largest = 1;
    graph.nodes.forEach(function (node) { largest = Math.max(largest, node.radius); });
    const slider = byId("radius");
    slider.max = String(largest);
    radius = Math.min(radius, largest);
    slider.value = String(radius);
    slider.disabled = largest === 1;
    draw();
  }

  function start(found) {
    data = found;
    if (!data.causal.length) return;
    const choice = byId("graph");
    choice.addEventListener("input", function () { pick(Number(choice.value)); });
    byId("radius").addEventListener("input", function (event) { radius = Number(event.target.value); draw(); });
    byId("outside").checked = false;
    byId("outside").addEventListener("input", function (event) { outside = event.target.checked; draw(); });
    Answer.view.onChange(draw);
    const sizes = data.causal.map(function (one) { return one.nodes.filter(function (node) { return node.radius > 0; }).length; });
    choice.value = String(sizes.indexOf(Math.max.apply(null, sizes)));  // one with something to see
    pick(Number(choice.value));
  }
  return { start: start };
})();
