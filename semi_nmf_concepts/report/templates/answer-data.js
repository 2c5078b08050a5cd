// What the parts of an answer's page share: the data, unpacked, and maps computed from them.
var Answer = (function () {
  "use strict";

  async function inflated(text) {
    const packed = Uint8Array.from(atob(text), function (sign) { return sign.charCodeAt(0); });
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  // Rows with a maximum each and 8 bits a value, or (fine) one maximum and 16 bits. Rows are brought
  // back one at a time, so that a large page costs a byte a value.
  class Packed {
    constructor(shape, buffer, fine) {
      this.shape = shape;
      this.width = shape[shape.length - 1];
      const count = shape.slice(0, -1).reduce(function (a, b) { return a * b; }, 1);
      const head = fine ? 4 : 4 * count;
      this.fine = fine;
      this.scales = new Float32Array(buffer, 0, head / 4);
      this.codes = fine ? new Uint16Array(buffer.slice(head)) : new Uint8Array(buffer, head);
    }

    // Adds `weight` times the row to `into`, or writes a new array.
    row(index, weight, into) {
      const width = this.width, start = index * width, codes = this.codes;
      into = into || new Float32Array(width);
      const step = this.fine ? this.scales[0] / 65535 : this.scales[index] / 65025;
      const factor = step * (weight === undefined ? 1 : weight);
      for (let i = 0; i < width; i += 1) {
        const code = codes[start + i];
        into[i] += factor * (this.fine ? code : code * code);
      }
      return into;
    }
  }

  async function unpack(packed) {
    return packed && new Packed(packed.shape, await inflated(packed.data), Boolean(packed.fine));
  }

  async function byLayer(list) {
    const found = new Map();
    for (const part of list) found.set(String(part.layer), await unpack(part));
    return found;
  }

  async function load() {
    const data = JSON.parse(document.getElementById("answer-data").textContent);
    const attention = data.attention;
    attention.planes = await byLayer(attention.planes);
    attention.by_head = await byLayer(attention.by_head);
    for (const name of Object.keys(attention.sums)) attention.sums[name] = await unpack(attention.sums[name]);
    for (const relevancy of data.relevancy) relevancy.image = await unpack(relevancy.image);
    if (data.concepts) data.concepts.maps = await unpack(data.concepts.maps);
    let start = 0;
    for (const image of data.images) {
      image.start = start;
      start += image.boxes.length;
      if (image.reads) image.reads = await unpack(image.reads);
    }
    data.n = start;  // places of all images, numbered one after the other
    return data;
  }

  // ---- maps -------------------------------------------------------------------------------------
  // A view is {source, layer, head, sinks}: layer "mean", "max" or an index, head the same. A map of
  // several words is the mean over their tokens, as in AnswerTrace.image_attention.

  function weights(data, words) {
    let total = 0;
    words.forEach(function (w) { total += data.words[w].tokens; });
    return words.map(function (w) { return data.words[w].tokens / (total || 1); });
  }

  function hasHead(data, layer, head) {
    const parts = head === "mean" || head === "max" ? data.attention.planes : data.attention.by_head;
    return parts.has(String(layer));
  }

  function attentionMap(data, view, words) {
    const attention = data.attention, map = new Float32Array(data.n), count = data.words.length;
    const reduced = view.head === "mean" || view.head === "max";
    const part = (reduced ? attention.planes : attention.by_head).get(String(view.layer));
    if (!part) return null;
    const head = reduced ? (view.head === "mean" ? 0 : 1) : Number(view.head);
    const shares = weights(data, words);
    words.forEach(function (w, i) { part.row(head * count + w, shares[i], map); });
    if (view.sinks) data.images.forEach(function (image) { map[image.start] = 0; });
    return map;
  }

  function relevancyMap(data, through, words) {
    const found = data.relevancy.find(function (one) { return one.through === through; });
    const map = new Float32Array(data.n);
    const rows = words.map(function (w) { return found.words.indexOf(w); }).filter(function (r) { return r >= 0; });
    if (!rows.length) return null;
    rows.forEach(function (row) { found.image.row(row, 1 / rows.length, map); });
    return map;
  }

  function map(data, view, words) {
    return view.source === "attention" ? attentionMap(data, view, words) : relevancyMap(data, view.source, words);
  }

  // Sums of the row of words in a head: the image, the question, everything (1 but for "max").
  function place(data, layer, head) {
    const at = function (choice) { return choice === "mean" ? 0 : choice === "max" ? 1 : 2 + Number(choice); };
    return at(layer) * (2 + data.attention.heads) + at(head);
  }

  function sum(data, name, layer, head, words) {
    const part = data.attention.sums[name];
    const row = part.row(place(data, layer, head));
    const shares = weights(data, words);
    let total = 0;
    words.forEach(function (w, i) { total += shares[i] * row[w]; });
    return total;
  }

  function masses(data, view, words) {
    const whole = sum(data, view.sinks ? "all_kept" : "all", view.layer, view.head, words) || 1;
    const image = sum(data, view.sinks ? "image_kept" : "image", view.layer, view.head, words) / whole;
    const question = Math.min(sum(data, "question", view.layer, view.head, words) / whole, 1 - image);
    return { image: image, question: question, other: Math.max(0, 1 - image - question) };
  }

  // In nats, of a map as a distribution.
  function entropy(map) {
    let total = 0, found = 0;
    for (const value of map) total += Math.max(value, 0);
    if (!(total > 0)) return NaN;
    for (const value of map) if (value > 0) found -= (value / total) * Math.log(value / total);
    return Math.max(0, found);
  }

  // ---- texts ------------------------------------------------------------------------------------
  function percent(share) {
    if (share === null || !isFinite(share)) return "–";
    const value = 100 * share;
    if (value > 0 && value < 0.1) return "<0.1%";
    return (value < 10 ? value.toFixed(1) : value.toFixed(0)) + "%";
  }

  function number(value) {
    if (value === null || !isFinite(value)) return "–";
    const text = value === 0 ? "0" : Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
    return text.replace("-", "−");
  }

  // An element with attributes, texts and children; nothing is ever read as markup.
  function make(tag, attributes, children) {
    const svg = tag.startsWith("svg:");
    const element = svg ? document.createElementNS(document.querySelector("svg").namespaceURI, tag.slice(4)) : document.createElement(tag);
    for (const name of Object.keys(attributes || {})) {
      if (attributes[name] !== undefined && attributes[name] !== null) element.setAttribute(name, attributes[name]);
    }
    [].concat(children === undefined ? [] : children).forEach(function (child) { element.append(child); });
    return element;
  }

  function byId(id) { return document.getElementById(id); }

  return {
    load: load, map: map, masses: masses, sum: sum, entropy: entropy, hasHead: hasHead,
    percent: percent, number: number, make: make, byId: byId,
  };
})();
