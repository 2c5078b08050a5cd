// The causal graph of a word: patches cut from the image and words around the target, by radius.
Answer.graph = (function () {
  "use strict";
  const make = Answer.make, byId = Answer.byId, number = Answer.number;
  const MARK = 7;  // size of a mark, in drawing units
  let data = null, graph = null, radius = 1, outside = false;

  function inside(node) { return node.kind === "target" || (node.radius > 0 && node.radius <= radius); }
  function listed() {
    return graph.nodes.map(function (node, i) { return Object.assign({ i: i }, node); }).filter(function (node) {
      return inside(node) || outside;
    });
  }

  // Where nodes stand, and the control point of each edge: no edge touches a third node.
  function layout() {
    const found = graph.layouts[outside ? graph.layouts.length - 1 : radius - 1], at = new Map(), bends = new Map();
    found.at.forEach(function (one) { at.set(one[0], [one[1], one[2]]); });
    found.bends.forEach(function (one) { bends.set(one[0] + "-" + one[1], [one[2], one[3]]); });
    return {
      at: at,
      control: function (i, j) {
        const a = at.get(i), b = at.get(j);
        return bends.get(i + "-" + j) || [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
      },
    };
  }

  function box(node) { return node.box || (data.images[node.image] && data.images[node.image].boxes[node.patch]); }
  function fullName(node) { return node.patch === null ? node.label : Answer.view.patchName(data.images[node.image].start + node.patch, node.label); }
  function label(node) { return node.label.length > 12 ? node.label.slice(0, 11) + "…" : node.label; }

  // A quadratic curve from the middle of one node to that of another: a point of it, and a part.
  function along(curve, t) {
    return [0, 1].map(function (k) { return (1 - t) * (1 - t) * curve[0][k] + 2 * t * (1 - t) * curve[1][k] + t * t * curve[2][k]; });
  }
  function part(curve, t, u) {
    const turn = [0, 1].map(function (k) {
      return (1 - t) * (1 - u) * curve[0][k] + ((1 - t) * u + t * (1 - u)) * curve[1][k] + t * u * curve[2][k];
    });
    return [along(curve, t), turn, along(curve, u)];
  }
  // How far along the curve leaves a node's outline, or comes a distance away from a point.
  function leaves(curve, half, gap) {
    let t = 0;
    const beyond = function (p) { return Math.max(Math.abs(p[0] - curve[0][0]) - half[0], Math.abs(p[1] - curve[0][1]) - half[1]) >= gap; };
    while (t < 0.45 && !beyond(along(curve, t))) t += 0.004;
    return t;
  }
  function away(curve, t, distance) {
    const from = along(curve, t);
    while (t < 0.5 && Math.hypot(along(curve, t)[0] - from[0], along(curve, t)[1] - from[1]) < distance) t += 0.004;
    return t;
  }

  // The mark at the beginning of a curve: 1 circle, 2 arrow, 3 tail; returns where the line begins.
  function mark(kind, curve, half, group) {
    const t = leaves(curve, half, 3), back = kind === 3 ? 0 : 1.4 * MARK;
    const end = along(curve, t), next = away(curve, t, 1.4 * MARK), other = along(curve, next);
    const dx = other[0] - end[0], dy = other[1] - end[1], length = Math.hypot(dx, dy) || 1, u = [dx / length, dy / length];
    const point = function (d, side) { return (end[0] + u[0] * d - u[1] * side).toFixed(1) + " " + (end[1] + u[1] * d + u[0] * side).toFixed(1); };
    if (kind === 2) group.append(make("svg:path", { class: "tip", d: "M" + point(0, 0) + "L" + point(1.6 * MARK, 0.75 * MARK) + "L" + point(1.6 * MARK, -0.75 * MARK) + "z" }));
    if (kind === 1) group.append(make("svg:circle", { class: "open", cx: end[0] + u[0] * MARK * 0.7, cy: end[1] + u[1] * MARK * 0.7, r: MARK * 0.7 }));
    return back ? next : t;
  }

  const SIGNS = { 1: ["o", "o"], 2: ["<", ">"], 3: ["-", "-"] };
  // The edge between two nodes in letters, as "o->": the mark at i, a line, the mark at j.
  function inLetters(i, j) {
    const atI = graph.marks[j][i], atJ = graph.marks[i][j];
    if (!atI || !atJ) return "";
    return SIGNS[atI][0] + "-" + SIGNS[atJ][1];
  }

  function drawNode(node, at, target) {
    const group = make("svg:g", { class: "node " + node.kind + (inside(node) ? "" : " out"), transform: "translate(" + at[0].toFixed(1) + " " + at[1].toFixed(1) + ")" });
    const half = node.half, place = box(node);
    const about = fullName(node) + (node.kind === "target" ? " (target)" : ", " + node.kind + ", weight " + number(node.weight) + ", radius " + (node.radius > 0 ? node.radius : "–"));
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
    const beside = [];
    if (node.patch !== null && place) beside.push(node.label);
    if (node.kind !== "target" && inside(node)) beside.push(number(node.weight));
    if (beside.length) group.append(make("svg:text", { class: "weight", "text-anchor": "middle", y: at[1] < 0 ? -half[1] - 6 : half[1] + 14 }, beside.join(" · ")));
    return group;
  }

  function drawGraph(nodes) {
    const svg = byId("pag"), found = layout(), at = found.at, edges = make("svg:g", {}), shapes = make("svg:g", {});
    const known = new Map(nodes.map(function (node) { return [node.i, node]; }));
    let wide = 300, high = 120;  // so that few nodes are not drawn large
    nodes.forEach(function (a) {
      nodes.forEach(function (b) {
        if (a.i >= b.i || !graph.marks[a.i][b.i]) return;
        const curve = [at.get(a.i), found.control(a.i, b.i), at.get(b.i)], back = curve.slice().reverse();
        const group = make("svg:g", { class: inside(a) && inside(b) ? "" : "out", "data-edge": a.i + "-" + b.i });
        const t = mark(graph.marks[b.i][a.i], curve, a.half, group), u = 1 - mark(graph.marks[a.i][b.i], back, b.half, group);
        const line = part(curve, t, u).map(function (p) { return p[0].toFixed(1) + " " + p[1].toFixed(1); });
        group.prepend(make("svg:path", { class: "edge", d: "M" + line[0] + "Q" + line[1] + " " + line[2] }));
        edges.append(group);
        const top = along(curve, 0.5);
        wide = Math.max(wide, Math.abs(top[0]) + 16);
        high = Math.max(high, Math.abs(top[1]) + 16);
      });
    });
    nodes.forEach(function (node) {
      const half = node.half, p = at.get(node.i);
      wide = Math.max(wide, Math.abs(p[0]) + half[0] + 24);
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
        make("span", { class: "nlabel" }, [fullName(node) + " ", make("small", {}, node.kind + (node.radius > 0 ? ", radius " + node.radius : ", outside") + (edge ? ", " + edge + " target" : ""))]),
        make("strong", { class: "num" }, number(node.weight))]);
    }));
    if (!shown.length) list.append(make("li", { class: "empty" }, "Nothing that this head attends to stays dependent on “" + graph.word + "” given the rest. A larger alpha, or another head, may tell more."));
  }

  function drawMap(nodes) {
    const place = byId("graph-map"), map = new Float32Array(data.n);
    nodes.forEach(function (node) {
      if (!inside(node) || node.image === null) return;
      const image = data.images[node.image], weight = Math.max(node.weight, 0);
      if (node.patch !== null) map[image.start + node.patch] += weight;
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
