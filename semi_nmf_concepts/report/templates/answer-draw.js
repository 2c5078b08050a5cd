// Maps as pictures. The same scales and colours as report/_answer_drawing.py.
Answer.draw = (function () {
  "use strict";
  const LONGEST = 448;  // of the raster that a map is drawn on, in pixels
  const rasters = new Map();

  // For each block of patches, which patch covers each pixel's centre (-1: none).
  function raster(image, longest) {
    const key = image.start + ":" + longest;
    if (rasters.has(key)) return rasters.get(key);
    const scale = longest / Math.max(image.width, image.height);
    const width = Math.max(1, Math.round(image.width * scale)), height = Math.max(1, Math.round(image.height * scale));
    const blocks = image.blocks.map(function (block) {
      const cover = new Int32Array(width * height).fill(-1);
      block.tokens.forEach(function (token) {
        const box = token >= 0 && image.boxes[token];
        if (!box) return;
        const left = Math.max(0, Math.ceil(box[0] * width - 0.5)), right = Math.min(width, Math.ceil(box[2] * width - 0.5));
        const top = Math.max(0, Math.ceil(box[1] * height - 0.5)), bottom = Math.min(height, Math.ceil(box[3] * height - 0.5));
        for (let y = top; y < bottom; y += 1) cover.fill(token, y * width + left, y * width + right);
      });
      return cover;
    });
    const found = { width: width, height: height, blocks: blocks };
    rasters.set(key, found);
    return found;
  }

  function area(box) { return (box[2] - box[0]) * (box[3] - box[1]); }

  // Value per area of each token of the image: what is drawn, so that large patches do not glare.
  function densities(image, map) {
    return image.boxes.map(function (box, i) { return box ? Math.max(map[image.start + i], 0) / area(box) : 0; });
  }

  // Density over the raster: blocks that overlap add up; `part` chooses one of them.
  function field(image, map, part, longest) {
    const grid = raster(image, longest || LONGEST), density = densities(image, map);
    const values = new Float32Array(grid.width * grid.height);
    grid.blocks.forEach(function (cover, b) {
      if (part >= 0 && part !== b) return;
      for (let i = 0; i < values.length; i += 1) if (cover[i] >= 0) values[i] += density[cover[i]];
    });
    return { values: values, width: grid.width, height: grid.height };
  }

  function largest(values) {
    let top = 0;
    for (const value of values) if (value > top) top = value;
    return top;
  }

  function scaled(share, scale) {
    if (scale === "sqrt") return Math.sqrt(share);
    return scale === "log" ? Math.log1p(99 * share) / Math.log(100) : share;
  }

  // Red, green, blue (0 to 255) and opacity (0 to 1) at 256 steps, from stops.
  function table(stops) {
    const colours = [];
    for (let i = 0; i < 256; i += 1) {
      const at = i / 255;
      let k = 1;
      while (k < stops.length - 1 && stops[k][0] < at) k += 1;
      const a = stops[k - 1], b = stops[k], t = (at - a[0]) / (b[0] - a[0]);
      colours.push([1, 2, 3, 4].map(function (j) { return a[j] + t * (b[j] - a[j]); }));
    }
    return colours;
  }

  // Paints a field on a canvas; look is {table, opacity, scale}.
  function paint(canvas, found, maximum, look) {
    canvas.width = found.width;
    canvas.height = found.height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(found.width, found.height), data = pixels.data;
    for (let i = 0; i < found.values.length; i += 1) {
      const share = maximum > 0 ? Math.min(found.values[i] / maximum, 1) : 0;
      const colour = look.table[Math.round(255 * scaled(share, look.scale))];
      data[4 * i] = colour[0];
      data[4 * i + 1] = colour[1];
      data[4 * i + 2] = colour[2];
      data[4 * i + 3] = 255 * colour[3] * look.opacity;
    }
    context.putImageData(pixels, 0, 0);
  }

  // A small picture with a map over it: the photograph once more, by reference.
  function thumbnail(data, index, label) {
    const image = data.images[index];
    const photo = Answer.make("svg:svg", { viewBox: "0 0 " + image.width + " " + image.height, "aria-hidden": "true", class: "photo" },
      Answer.make("svg:use", { href: "#image-" + index, width: image.width, height: image.height }));
    const canvas = Answer.make("canvas", { class: "heat", "aria-hidden": "true" });
    const box = Answer.make("span", { class: "mini", role: label ? "img" : undefined, "aria-label": label }, [photo, canvas]);
    return { box: box, canvas: canvas };
  }

  function fillThumbnail(thumb, data, index, map, look, longest) {
    const found = field(data.images[index], map, -1, longest || 96);
    paint(thumb.canvas, found, largest(found.values), look);
  }

  // The image whose map is the strongest: the one that small pictures show.
  function strongest(data, map) {
    if (data.images.length === 1) return 0;
    let best = 0, most = -1;
    data.images.forEach(function (image, i) {
      let total = 0;
      for (let k = 0; k < image.boxes.length; k += 1) total += map[image.start + k];
      if (total > most) { most = total; best = i; }
    });
    return best;
  }

  return {
    field: field, largest: largest, table: table, paint: paint, scaled: scaled, area: area,
    thumbnail: thumbnail, fillThumbnail: fillThumbnail, strongest: strongest,
  };
})();
