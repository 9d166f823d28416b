
// Matches: all of them as lines on one canvas, the one pointed at on another above it.

const count = data.similarities.length;
const similarities = Float64Array.from(data.similarities);
// Colours span the range of all but the least similar matches, of which a few would take up most of it.
const [dullest, brightest] = data.colourRange;
const shadeOf = (similarity) => {
  const place = brightest > dullest ? (similarity - dullest) / (brightest - dullest) : 1;
  return data.colours[Math.round(clamp(place, 0, 1) * (data.colours.length - 1))];
};
const colours = data.similarities.map(shadeOf);
const colourOf = (k) => colours[k];
const images = [byId("image-a"), byId("image-b")];
const stage = byId("stage");
const minimum = byId("minimum");
const outlierColour = () => getComputedStyle(document.querySelector(".line.dashed")).borderTopColor;

// How much of the stage lines of one kind may cover together, counted without their overlaps.
const INK = 0.25;
const OUTLIER_STRENGTH = 0.4;
// How far the pointer may be from an end of a line, and from a line, in pixels.
const NEAR_END = 12;
const NEAR_LINE = 5;

let a = { x: [], y: [] };
let b = { x: [], y: [] };

const isInlier = (k) => !data.inliers || data.inliers[k] === 1;

const page = { shown: [], pick, show, describe };

// Which are shown

// Matches are sorted, the most similar first.
function choose() {
  const least = Number(minimum.value);
  const inliers = byId("show-inliers").checked;
  const outliers = byId("show-outliers").checked;
  page.shown = [];
  for (let k = 0; k < count && similarities[k] >= least; k++) {
    if (isInlier(k) ? inliers : outliers) page.shown.push(k);
  }
  byId("minimum-value").textContent = count ? least.toFixed(3) : "";
  byId("count").textContent =
    page.shown.length === count
      ? plural(count, "match", "matches")
      : `${whole(page.shown.length)} of ${plural(count, "match", "matches")}`;
}

const BARS = 48;

function drawHistogram() {
  const low = Number(minimum.min);
  const width = (Number(minimum.max) - low) / BARS;
  const counts = new Array(BARS).fill(0);
  const place = (value) => (width > 0 ? clamp(Math.floor((value - low) / width), 0, BARS - 1) : BARS - 1);
  for (const value of similarities) counts[place(value)]++;
  const most = Math.max(1, ...counts);
  // The slider's own bar and those above it.
  const first = place(Number(minimum.value));
  drawBars(
    byId("bars"),
    counts.map((number, k) => ({
      height: number / most,
      colour: shadeOf(low + (k + 0.5) * width),
      shown: k >= first,
    })),
  );
}

// All lines

function drawAll() {
  const pen = penOn(byId("all"));
  const many = page.shown.length;
  // One pixel of the screen, the width that is drawn fastest by far, is enough for thousands of lines.
  const width = many > 1500 ? 1 / (window.devicePixelRatio || 1) : many > 500 ? 1 : many > 100 ? 1.2 : 1.6;

  const outliers = page.shown.filter((k) => !isInlier(k));
  const inliers = page.shown.filter(isInlier);
  // Outliers are there for whoever looks for them, and leave the eye to the inliers.
  strokes(pen, outliers, () => outlierColour(), width, OUTLIER_STRENGTH * opacityOf(outliers, width), [5, 4]);
  strokes(pen, inliers, colourOf, width, opacityOf(inliers, width), []);
  const radius = many > 1000 ? 1.25 : many > 300 ? 2 : 3;
  pen.globalAlpha = OUTLIER_STRENGTH;
  dots(pen, outliers, () => outlierColour(), radius);
  pen.globalAlpha = 1;
  dots(pen, inliers, colourOf, radius);
}

// Lines of one kind cover that share of the stage at most.
function opacityOf(chosen, width) {
  let length = 0;
  for (const k of chosen) length += Math.hypot(a.x[k] - b.x[k], a.y[k] - b.y[k]);
  return clamp((INK * stage.clientWidth * stage.clientHeight) / Math.max(1, length * width), 0.06, 0.9);
}

// From the least similar to the most similar, which end up on top; lines of one colour are one path.
function byColour(chosen, colour, draw) {
  let begin = chosen.length;
  while (begin > 0) {
    const ink = colour(chosen[begin - 1]);
    let end = begin;
    while (begin > 0 && colour(chosen[begin - 1]) === ink) begin--;
    draw(ink, chosen.slice(begin, end));
  }
}

function strokes(pen, chosen, colour, width, opacity, dash) {
  pen.globalAlpha = opacity;
  pen.lineWidth = width;
  pen.setLineDash(dash);
  byColour(chosen, colour, (ink, group) => {
    pen.strokeStyle = ink;
    pen.beginPath();
    for (const k of group) {
      pen.moveTo(a.x[k], a.y[k]);
      pen.lineTo(b.x[k], b.y[k]);
    }
    pen.stroke();
  });
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

function dots(pen, chosen, colour, radius) {
  byColour(chosen, colour, (ink, group) => {
    pen.fillStyle = ink;
    if (radius < 2) {
      // So small that a square looks the same, and is three times as fast.
      for (const k of group) {
        for (const end of [a, b]) pen.fillRect(end.x[k] - radius, end.y[k] - radius, 2 * radius, 2 * radius);
      }
      return;
    }
    pen.beginPath();
    for (const k of group) {
      for (const [end, { scale }] of [[a, data.a], [b, data.b]]) {
        const reach = radius * clamp(scale[k], 0.5, 4);
        pen.moveTo(end.x[k] + reach, end.y[k]);
        pen.arc(end.x[k], end.y[k], reach, 0, 2 * Math.PI);
      }
    }
    pen.fill();
  });
}

// One line

function pick(x, y) {
  let best = -1;
  let nearest = NEAR_END ** 2;
  for (const k of page.shown) {
    for (const end of [a, b]) {
      const distance = (end.x[k] - x) ** 2 + (end.y[k] - y) ** 2;
      if (distance < nearest) {
        nearest = distance;
        best = k;
      }
    }
  }
  // Between the ends only where no end is near: ends are what one aims at.
  if (best >= 0) return best;
  nearest = NEAR_LINE ** 2;
  for (const k of page.shown) {
    const dx = b.x[k] - a.x[k];
    const dy = b.y[k] - a.y[k];
    const along = clamp(((x - a.x[k]) * dx + (y - a.y[k]) * dy) / (dx * dx + dy * dy || 1), 0, 1);
    const distance = (a.x[k] + along * dx - x) ** 2 + (a.y[k] + along * dy - y) ** 2;
    if (distance < nearest) {
      nearest = distance;
      best = k;
    }
  }
  return best;
}

function show(k) {
  const pen = penOn(byId("one"));
  const patches = [byId("patch-a"), byId("patch-b")];
  if (k < 0) {
    patches.forEach(clear);
    return;
  }
  const colour = isInlier(k) ? colourOf(k) : outlierColour();
  pen.lineCap = "round";
  for (const [ink, width] of [["rgba(0, 0, 0, 0.6)", 5], [colour, 2.5]]) {
    pen.strokeStyle = ink;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(a.x[k], a.y[k]);
    pen.lineTo(b.x[k], b.y[k]);
    pen.stroke();
  }
  drawRing(pen, a.x[k], a.y[k], 8, 2.5, colour);
  drawRing(pen, b.x[k], b.y[k], 8, 2.5, colour);
  drawLabel(pen, (a.x[k] + b.x[k]) / 2, (a.y[k] + b.y[k]) / 2, similarities[k].toFixed(3));

  [data.a, data.b].forEach((points, n) => {
    drawPatch(patches[n], images[n], data.sizes[n], points.x[k], points.y[k], points.scale[k], colour);
  });
  byId("similarity").textContent = similarities[k].toFixed(3);
  byId("rank").textContent = `${whole(page.shown.indexOf(k) + 1)} of ${whole(page.shown.length)}`;
  byId("position-a").textContent = position(data.a.x[k], data.a.y[k]);
  byId("position-b").textContent = position(data.b.x[k], data.b.y[k]);
  byId("kind").textContent = isInlier(k) ? "inlier" : "outlier";
}

function drawLabel(pen, x, y, text) {
  pen.font = "600 13px system-ui, sans-serif";
  const width = pen.measureText(text).width + 16;
  pen.fillStyle = "rgba(20, 20, 22, 0.88)";
  pen.beginPath();
  pen.roundRect(x - width / 2, y - 12, width, 24, 12);
  pen.fill();
  pen.fillStyle = "#ffffff";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.fillText(text, x, y + 1);
}

function describe(k) {
  const kind = data.inliers ? `, ${isInlier(k) ? "inlier" : "outlier"}` : "";
  return (
    `Match ${page.shown.indexOf(k) + 1} of ${page.shown.length}, similarity ${similarities[k].toFixed(3)}${kind}: ` +
    `${position(data.a.x[k], data.a.y[k])} and ${position(data.b.x[k], data.b.y[k])}`
  );
}

// The page

function setUpControls() {
  // The slider's ends are rounded down, so that no position of it hides everything.
  const low = count ? Math.floor(similarities[count - 1] * 1000) / 1000 : 0;
  const high = count ? Math.floor(similarities[0] * 1000) / 1000 : 0;
  minimum.min = low;
  minimum.max = high;
  minimum.value = low;
  minimum.disabled = low === high;
  if (!count) byId("hint").textContent = "There are no matches.";
  byId("lowest").textContent = count ? low.toFixed(3) : "";
  byId("highest").textContent = count ? high.toFixed(3) : "";
  const agreeing = data.inliers ? data.inliers.reduce((sum, one) => sum + one, 0) : count;
  byId("inlier-count").textContent = whole(agreeing);
  byId("outlier-count").textContent = whole(count - agreeing);
}

whenReady(images, () => {
  setUpControls();
  choose();
  const update = setUpPointing(stage, page);
  const redraw = () => {
    drawHistogram();
    drawAll();
    update();
  };
  const place = () => {
    const boxes = layOut(stage, images, data.sizes);
    a = onStage(data.a, data.sizes[0], boxes[0]);
    b = onStage(data.b, data.sizes[1], boxes[1]);
    redraw();
  };
  const filter = () => {
    choose();
    redraw();
  };
  for (const id of ["minimum", "show-inliers", "show-outliers"]) byId(id).addEventListener("input", filter);
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("resize", place);
  place();
  setUpTheme(redraw);
});
