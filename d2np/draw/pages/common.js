"use strict";

// What both pages need: numbers, the theme, the place of the images, bars above a slider, enlarged patches,
// and the one match or keypoint that is pointed at, held or stepped to.

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
