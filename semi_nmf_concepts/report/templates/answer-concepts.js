// Small maps beside each other: relevancy through each encoder, and the concepts of the answer.
Answer.relevancy = (function () {
  "use strict";
  let data = null;

  function draw() {
    const box = Answer.byId("relevancy-maps"), state = Answer.view.state, kept = Answer.view.kept();
    // The same words for all maps: those whose relevancy is known.
    const known = kept.filter(function (w) { return data.relevancy[0].words.includes(w); }), words = known.length ? known : kept;
    const views = [{ source: "attention", layer: "mean", head: "mean", sinks: state.sinks, name: "attention, all heads" }].concat(
      data.relevancy.map(function (one) { return { source: one.through, name: "relevancy, " + (one.through === "both" ? "both" : one.through) }; }));
    const figures = [];
    views.forEach(function (view) {
      const map = Answer.map(data, view, words);
      if (!map) return;
      data.images.forEach(function (image, i) {
        const thumb = Answer.draw.thumbnail(data, i, view.name + " for " + Answer.view.named(words));
        Answer.draw.fillThumbnail(thumb, data, i, map, Answer.view.look(), 240);
        const name = data.images.length > 1 ? view.name + ", " + image.name : view.name;
        figures.push(Answer.make("figure", {}, [thumb.box, Answer.make("figcaption", {}, name)]));
      });
    });
    box.replaceChildren.apply(box, figures.concat(Answer.make("p", { class: "note" }, known.length ? "For " + Answer.view.named(words) + ", each to its own maximum; choose words above."
      : "There is no relevancy of " + Answer.view.named(words) + ": it was not explained.")));
  }

  function start(found) {
    data = found;
    if (data.relevancy.length) Answer.view.onChange(draw);
  }
  return { start: start };
})();

Answer.concepts = (function () {
  "use strict";
  const make = Answer.make, number = Answer.number;
  let data = null, top = 0;  // of all concepts: a weak one is to look weak

  // Maps are of the concepts that are most active at each word.
  function reason() { return "maps are made for the " + data.concepts.n_maps + " most active of each word."; }

  function card(article) {
    const item = data.concepts.items[Number(article.dataset.item)];
    const place = article.querySelector(".concept-map"), bars = article.querySelector(".activity");
    let chosen = 0, strongest = 0, best = -1;
    item.values.forEach(function (value, w) {
      if (value > item.values[strongest]) strongest = w;
      const rank = (String(w) in item.maps ? 1e9 : 0) + value;  // first a word that has a map
      if (rank > best) { best = rank; chosen = w; }
    });
    const buttons = data.words.map(function (word, w) {
      const value = item.values[w] || 0;
      const bar = make("span", { class: "abar" });
      bar.style.height = (top > 0 ? Math.max(0, 100 * value / top) : 0).toFixed(1) + "%";
      if (value > 0) bar.style.minHeight = "2px";
      const button = make("button", { type: "button", class: "aword", title: word.text + ": " + number(value), "aria-label": word.text + ", activation " + number(value) },
        [make("span", { class: "atrack" }, bar), make("span", { class: "atext" }, word.text)]);
      button.addEventListener("click", function () { chosen = w; draw(); });
      return button;
    });
    bars.replaceChildren.apply(bars, buttons);

    function draw() {
      buttons.forEach(function (button, w) { button.setAttribute("aria-pressed", String(w === chosen)); });
      const row = item.maps[String(chosen)];
      const about = "“" + data.words[chosen].text + "”: " + number(item.values[chosen]);
      if (row === undefined) {
        place.replaceChildren(make("p", { class: "empty" }, item.values[chosen] > 0 ? about + ". No map for this word: " + reason() : "Not active at “" + data.words[chosen].text + "”."));
        return;
      }
      const map = data.concepts.maps.row(row), index = Answer.draw.strongest(data, map);
      const thumb = Answer.draw.thumbnail(data, index, "Patches that raise concept " + item.index + " at " + about);
      Answer.draw.fillThumbnail(thumb, data, index, map, Answer.view.look(), 240);
      const most = data.words[strongest].text + "” (" + number(item.values[strongest]) + ")";
      place.replaceChildren(thumb.box, make("p", { class: "note" }, String(strongest) in item.maps ? about : about + ". Strongest at “" + most + ", without a map: " + reason()));
    }
    return draw;
  }

  function start(found) {
    data = found;
    if (!data.concepts) return;
    data.concepts.items.forEach(function (item) { item.values.forEach(function (value) { top = Math.max(top, value); }); });
    const draws = Array.from(document.querySelectorAll(".concept")).map(card);
    Answer.view.onChange(function () { draws.forEach(function (draw) { draw(); }); });
  }
  return { start: start };
})();
