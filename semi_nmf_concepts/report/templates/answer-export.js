// Saving: the view as a picture, the data as JSON.
Answer.saving = (function () {
  "use strict";
  let data = null;

  function offer(blob, name) {
    const address = URL.createObjectURL(blob), link = Answer.make("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(function () { URL.revokeObjectURL(address); }, 10000);
  }

  function fileName(end) {
    const words = Answer.view.kept();
    const about = words.length === data.words.length ? "answer" : words.map(function (w) { return data.words[w].text; }).join("-");
    return (about.replace(/[^\p{L}\p{N}-]+/gu, "").slice(0, 40) || "answer") + end;
  }

  async function photo(i) {
    const picture = new Image();
    picture.src = document.querySelector("#image-" + i + " image").getAttribute("href");
    await picture.decode();
    return picture;
  }

  // The images side by side with the map over them, and what it is below.
  async function picture() {
    const height = 560, gap = 16, foot = 64;
    const widths = data.images.map(function (image) { return Math.round(height * image.width / image.height); });
    const canvas = document.createElement("canvas");
    canvas.width = widths.reduce(function (a, b) { return a + b + gap; }, gap);
    canvas.height = height + 2 * gap + foot;
    const context = canvas.getContext("2d"), look = getComputedStyle(document.body);
    context.fillStyle = look.backgroundColor;
    context.fillRect(0, 0, canvas.width, canvas.height);
    let left = gap;
    for (let i = 0; i < data.images.length; i += 1) {
      context.imageSmoothingEnabled = true;
      context.drawImage(await photo(i), left, gap, widths[i], height);
      context.imageSmoothingEnabled = false;
      context.drawImage(document.querySelector("#stage-" + i + " .heat"), left, gap, widths[i], height);
      rings(context, i, left, gap, widths[i], height);
      left += widths[i] + gap;
    }
    context.fillStyle = look.color;
    const room = canvas.width - 2 * gap;
    context.font = "600 20px sans-serif";
    context.fillText(cut(context, Answer.view.named(Answer.view.kept()), room), gap, height + 2 * gap + 18);
    context.font = "15px sans-serif";
    context.fillText(cut(context, Answer.view.where(), room), gap, height + 2 * gap + 44);
    return new Promise(function (done) { canvas.toBlob(done, "image/png"); });
  }
  function cut(context, text, room) {
    let shown = text;
    while (shown.length > 1 && context.measureText(shown).width > room) shown = shown.slice(0, -2) + "…";
    return shown;
  }
  function rings(context, i, left, top, width, height) {
    const image = data.images[i];
    Answer.view.state.chosen.forEach(function (patch) {
      const box = image.boxes[patch - image.start];
      if (!box) return;
      [["#000", 4], ["#fff", 2]].forEach(function (pen) {
        context.strokeStyle = pen[0];
        context.lineWidth = pen[1];
        context.strokeRect(left + box[0] * width, top + box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height);
      });
    });
  }

  // Everything but the maps of single heads, which the view in sight is the only one of.
  function rounded(values) { return Array.from(values, function (value) { return Number(value.toPrecision(5)); }); }
  function table(part) {
    const count = part.codes.length / part.width, rows = [];
    for (let i = 0; i < count; i += 1) rows.push(rounded(part.row(i)));
    return rows;
  }
  function nested(rows, size) {
    const found = [];
    for (let i = 0; i < rows.length; i += size) found.push(rows.slice(i, i + size));
    return found;
  }
  function contents() {
    const state = Answer.view.state, words = Answer.view.kept(), map = Answer.map(data, state, words);
    const view = { words: words, patches: Array.from(state.chosen), source: state.source, layer: state.layer, head: state.head, without_sinks: state.sinks };
    if (state.source === "attention" && state.layer !== "mean" && state.layer !== "max") view.layer = data.attention.layers[state.layer];
    const sums = {};
    Object.keys(data.attention.sums).forEach(function (name) {
      const all = nested(table(data.attention.sums[name]), 2 + data.attention.heads);
      sums[name] = { layers: all.slice(2).map(function (heads) { return heads.slice(2); }), mean: all[0][0] };
    });
    return {
      question: data.question, answer: data.answer, words: data.words, tokens: data.tokens,
      images: data.images.map(function (image) { return { name: image.name, size: image.full, patches: image.boxes, blocks: image.blocks }; }),
      view: Object.assign(view, { masses: state.source === "attention" ? Answer.masses(data, state, words) : null, map: map && perImage(map) }),
      attention: {
        layers: data.attention.layers, heads: data.attention.heads, sums: sums,
        mean: data.words.map(function (_, w) { return perImage(Answer.map(data, { source: "attention", layer: "mean", head: "mean" }, [w])); }),
      },
      relevancy: data.relevancy.map(function (one) { return Object.assign({}, one, { image: table(one.image) }); }),
      causal: data.causal.map(function (one) { return Object.assign({}, one, { layouts: undefined }); }),
      concepts: data.concepts && Object.assign({}, data.concepts, { maps: data.concepts.maps && table(data.concepts.maps) }),
      faithfulness: data.faithfulness,
      record: data.record,
    };
  }
  function perImage(map) {
    return data.images.map(function (image) { return rounded(map.slice(image.start, image.start + image.boxes.length)); });
  }

  function start(found) {
    data = found;
    Answer.byId("save-png").addEventListener("click", function () { picture().then(function (blob) { offer(blob, fileName(".png")); }); });
    Answer.byId("save-json").addEventListener("click", function () {
      offer(new Blob([JSON.stringify(contents(), null, 1)], { type: "application/json" }), fileName(".json"));
    });
  }
  return { start: start };
})();
