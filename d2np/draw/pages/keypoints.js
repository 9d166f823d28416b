
// Keypoints: all of them as circles on one canvas, the one pointed at on another above it.

const count = data.scores.length;
const colourOf = (k) => data.colours[data.shades[k]];
const images = [byId("image")];
const [size] = data.sizes;
const stage = byId("stage");
const strongest = byId("strongest");
const heat = byId("heat");

// The pointer may be this far outside a circle, in pixels.
const NEAR = 8;
// So many at first: more would hide the image.
const AT_FIRST = 1000;

let points = { x: [], y: [] };
let unit = 4;

const page = { shown: [], pick, show, describe };

// A score's digits, not its decimals: some networks' are far below 1.
const score = (k) => Number(data.scores[k].toPrecision(4)).toString();
// As in d2np's drawings, the radius follows the scale.
const radius = (k) => unit * clamp(data.points.scale[k], 0.25, 8);

// Which are shown: keypoints are sorted, the strongest first.
function choose() {
  const many = Number(strongest.value);
  page.shown = Array.from({ length: many }, (_, k) => k);
  byId("strongest-value").textContent = whole(many);
  byId("count").textContent =
    many === count
      ? plural(count, "keypoint", "keypoints")
      : `${whole(many)} of ${plural(count, "keypoint", "keypoints")}`;
}

const BARS = 96;

// The scores from the strongest keypoint to the weakest.
function drawCurve() {
  const bars = Math.min(BARS, count);
  const low = Math.min(0, data.scores[count - 1] ?? 0);
  const range = (data.scores[0] ?? 0) - low || 1;
  drawBars(
    byId("bars"),
    Array.from({ length: bars }, (_, bar) => {
      const k = Math.round(((bar + 0.5) / bars) * count - 0.5);
      return {
        height: 0.04 + 0.96 * ((data.scores[k] - low) / range),
        colour: colourOf(k),
        shown: k < page.shown.length,
      };
    }),
  );
}

// All circles

function drawAll() {
  const pen = penOn(byId("all"));
  const many = page.shown.length;
  // As large as is comfortable, until there are so many that neighbours would overlap too much.
  const room = 0.42 * Math.sqrt((stage.clientWidth * stage.clientHeight) / Math.max(1, many));
  unit = clamp(room, 3, 6.5);
  const line = many > 2000 ? 1.1 : 1.5;
  const all = (begin, end) => {
    pen.beginPath();
    for (let k = begin; k < end; k++) {
      pen.moveTo(points.x[k] + radius(k), points.y[k]);
      pen.arc(points.x[k], points.y[k], radius(k), 0, 2 * Math.PI);
    }
    pen.stroke();
  };
  // A dark outline, for images of any colour; among thousands it would only blacken them.
  if (many <= 3000) {
    pen.strokeStyle = "rgba(10, 10, 14, 0.5)";
    pen.lineWidth = line + 1.4;
    // In pieces: one path with thousands of circles is slow.
    for (let begin = 0; begin < many; begin += 256) all(begin, Math.min(many, begin + 256));
  }
  // The strongest last, on top of the others; circles of one colour are one path.
  pen.lineWidth = line;
  let begin = many;
  while (begin > 0) {
    const end = begin;
    const shade = data.shades[end - 1];
    while (begin > 0 && data.shades[begin - 1] === shade) begin--;
    pen.strokeStyle = data.colours[shade];
    all(begin, end);
  }
}

// One circle

function pick(x, y) {
  let best = -1;
  let nearest = Infinity;
  for (const k of page.shown) {
    const distance = Math.hypot(points.x[k] - x, points.y[k] - y);
    // The nearest centre; around a large circle, though, only where it is not far off.
    if (distance < nearest && distance < radius(k) + NEAR) {
      nearest = distance;
      best = k;
    }
  }
  return best;
}

function show(k) {
  const pen = penOn(byId("one"));
  if (k < 0) {
    clear(byId("patch"));
    return;
  }
  const { x, y, scale } = data.points;
  drawRing(pen, points.x[k], points.y[k], Math.max(radius(k), 5), 3, colourOf(k));
  drawPatch(byId("patch"), images[0], size, x[k], y[k], scale[k], colourOf(k));
  byId("score").textContent = score(k);
  byId("rank").textContent = `${whole(k + 1)} of ${whole(count)}`;
  byId("position").textContent = position(x[k], y[k]);
  byId("scale").textContent = String(scale[k]);
}

function describe(k) {
  const { x, y, scale } = data.points;
  return `Keypoint ${k + 1} of ${count}, score ${score(k)}: ${position(x[k], y[k])}, scale ${scale[k]}`;
}

// The page

function setUpControls() {
  strongest.max = count;
  strongest.value = Math.min(count, AT_FIRST);
  strongest.disabled = count === 0;
  if (!count) byId("hint").textContent = "There are no keypoints.";
  byId("best").textContent = count ? "strongest" : "";
  byId("worst").textContent = count ? "weakest" : "";
}

function setUpHeat() {
  if (!data.heat) return;
  byId("heat-map").src = data.heat;
  byId("heat-colours").style.background = `linear-gradient(to right, ${data.heatColours.join(", ")})`;
  const toggle = () => {
    byId("heat-map").hidden = !heat.checked;
    byId("heat-map").parentElement.classList.toggle("hot", heat.checked);
    document.querySelector(".scale").classList.toggle("off", !heat.checked);
  };
  heat.addEventListener("input", toggle);
  toggle();
}

whenReady(images, () => {
  setUpControls();
  setUpHeat();
  choose();
  const update = setUpPointing(stage, page);
  const redraw = () => {
    drawCurve();
    drawAll();
    update();
  };
  const place = () => {
    const [box] = layOut(stage, images, data.sizes);
    points = onStage(data.points, size, box);
    redraw();
  };
  strongest.addEventListener("input", () => {
    choose();
    redraw();
  });
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("resize", place);
  place();
  setUpTheme(redraw);
});
