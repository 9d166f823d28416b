"use strict";

// First the parts: numbers, the theme, the place of the images, bars above a slider, enlarged patches, and the
// one match that is pointed at, held or stepped to.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const whole = (number) => number.toLocaleString("en");
const plural = (number, one, many) => `${whole(number)} ${number === 1 ? one : many}`;
const position = (x, y) => `x ${x.toFixed(1)}, y ${y.toFixed(1)}`;

// Theme: as the system has it, until the button says otherwise.

const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";

function setUpTheme(redraw) {
  const button = byId("theme");
  const tell = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
    redraw();
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    tell();
  });
  systemDark.addEventListener("change", tell);
  tell();
}

// Canvases

// A cleared pen that counts in CSS pixels, on a canvas with as many pixels as the screen really has.
function penOn(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  const pen = canvas.getContext("2d");
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return pen;
}

// Bars that end where the slider below them ends: its thumb is 16 pixels wide.
function drawBars(canvas, bars) {
  const pen = penOn(canvas);
  const inset = 8;
  const step = (canvas.clientWidth - 2 * inset) / bars.length;
  const height = canvas.clientHeight;
  const faint = getComputedStyle(canvas).color;
  bars.forEach((bar, k) => {
    if (bar.height <= 0) return;
    const top = height - Math.max(1.5, bar.height * height);
    pen.fillStyle = bar.shown ? bar.colour : faint;
    // A gap between bars that are wide enough; the others overlap, or the ground would shine through.
    pen.fillRect(inset + k * step, top, step > 4 ? step - 1 : step + 0.5, height - top);
  });
}

// A circle that stands out from any image.
function drawRing(pen, x, y, radius, width, colour) {
  for (const [ink, line] of [["rgba(0, 0, 0, 0.6)", width + 2.5], [colour, width]]) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.strokeStyle = ink;
    pen.lineWidth = line;
    pen.stroke();
  }
}

// Pixels of the embedded image along an edge of a patch, at scale 1.
const PATCH = 64;

// What lies around a keypoint, enlarged; the larger its scale, the more of it.
function drawPatch(canvas, image, size, x, y, scale, colour) {
  const pen = penOn(canvas);
  const edge = canvas.clientWidth;
  const span = PATCH * clamp(scale, 0.25, 8);
  const left = ((x + 0.5) / size.width) * image.naturalWidth - span / 2;
  const top = ((y + 0.5) / size.height) * image.naturalHeight - span / 2;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, left, top, span, span, 0, 0, edge, edge);
  drawRing(pen, edge / 2, edge / 2, edge / 16, 2, colour);
}

function clear(canvas) {
  penOn(canvas);
}

// The place of the images

const NARROW = 640;
const CAPTION = 26;
const GAP = 14;
// A small image is enlarged this much at most.
const LARGEST = 4;

// Makes the images as large as the window allows, beside or above each other, whichever shows more of them.
// Two that stand beside each other get one height, two above each other one width: what they show is of the
// same size, more often than not. Returns where they lie on the stage.
function layOut(stage, images, sizes) {
  const style = getComputedStyle(document.body);
  const others = [...document.body.children].filter((part) => !part.contains(stage) && part.offsetHeight > 1);
  const taken = others.reduce((sum, part) => sum + part.offsetHeight + parseFloat(style.rowGap), 0);
  const room = stage.clientWidth;
  const tall = window.innerHeight - taken - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  const captions = CAPTION * sizes.length;
  const gaps = GAP * (sizes.length - 1);

  const widthPerHeight = sizes.reduce((sum, { width, height }) => sum + width / height, 0);
  const heightPerWidth = sizes.reduce((sum, { width, height }) => sum + height / width, 0);
  const tallest = Math.max(...sizes.map(({ height }) => height));
  const widest = Math.max(...sizes.map(({ width }) => width));
  const beside = Math.min((room - gaps) / widthPerHeight, Math.max(280, tall - CAPTION), LARGEST * tallest);
  let above = Math.min(room, Math.max(480, tall - captions - gaps) / heightPerWidth, LARGEST * widest);
  const narrow = room < NARROW && sizes.length > 1;
  if (narrow) above = Math.min(room, LARGEST * widest);
  const stacked = narrow || (sizes.length > 1 && above ** 2 * heightPerWidth > 1.2 * beside ** 2 * widthPerHeight);

  stage.classList.toggle("stacked", stacked);
  images.forEach((image, k) => {
    const { width, height } = sizes[k];
    const factor = stacked ? above / width : beside / height;
    image.style.width = `${Math.max(1, Math.floor(width * factor))}px`;
    image.style.height = `${Math.max(1, Math.floor(height * factor))}px`;
    // The caption is cut off rather than pushing the images apart.
    image.closest("figure").style.width = image.style.width;
  });
  const origin = stage.getBoundingClientRect();
  return images.map((image) => {
    const box = image.getBoundingClientRect();
    return { x: box.left - origin.left, y: box.top - origin.top, width: box.width, height: box.height };
  });
}

// Where the keypoints lie on the stage. (0, 0) is the centre of the top-left pixel, so that an image begins
// at -0.5.
function onStage(points, size, box) {
  const x = Float32Array.from(points.x, (value) => box.x + ((value + 0.5) / size.width) * box.width);
  const y = Float32Array.from(points.y, (value) => box.y + ((value + 0.5) / size.height) * box.height);
  return { x, y };
}

// Pointing, holding and stepping

// `page` has
//   shown            the indices to step through, in their order
//   pick(x, y)       the index at that place of the stage, or -1
//   show(index)      highlights it and fills in the details; -1: none
//   describe(index)  in words, for those who do not see it
// Returns a function to call when `shown` or the places have changed.
function setUpPointing(stage, page) {
  let current = -1;
  let held = false;

  const set = (index, hold) => {
    current = index;
    held = hold && index >= 0;
    stage.classList.toggle("focused", index >= 0);
    byId("detail").classList.toggle("empty", index < 0);
    page.show(index);
  };
  const at = (event) => {
    const origin = stage.getBoundingClientRect();
    return page.pick(event.clientX - origin.left, event.clientY - origin.top);
  };
  const stepTo = (place) => {
    const index = page.shown[clamp(place, 0, page.shown.length - 1)] ?? -1;
    set(index, true);
    byId("announcement").textContent = index < 0 ? "" : page.describe(index);
  };
  // From nowhere both directions lead to the first one.
  const step = (by) => stepTo(current < 0 ? 0 : page.shown.indexOf(current) + by);

  stage.addEventListener("pointermove", (event) => {
    if (held || event.pointerType === "touch") return;
    const index = at(event);
    if (index !== current) set(index, false);
  });
  stage.addEventListener("pointerleave", () => {
    if (!held && current >= 0) set(-1, false);
  });
  stage.addEventListener("click", (event) => {
    const index = at(event);
    set(held && index === current ? -1 : index, true);
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));

  const keys = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    Home: () => stepTo(0),
    End: () => stepTo(page.shown.length - 1),
    Escape: () => set(-1, false),
  };
  document.addEventListener("keydown", (event) => {
    // A slider has its own use for all of these but one; with Alt and others they belong to the browser.
    const taken = event.target.type === "range" && event.key !== "Escape";
    if (taken || event.altKey || event.ctrlKey || event.metaKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  return () => {
    for (const id of ["previous", "next"]) byId(id).disabled = !page.shown.length;
    if (page.shown.includes(current)) set(current, held);
    else set(-1, false);
  };
}

// Begins once the images can be drawn from.
function whenReady(images, start) {
  Promise.all(images.map((image) => image.decode())).then(start);
}


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
