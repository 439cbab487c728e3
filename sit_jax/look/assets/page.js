// The parts of the page that move. All values are in the element #data; nothing is fetched.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
// Okabe and Ito: eight colours that colour-blind people tell apart; grey is for all further groups.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b8a800", "#7a5195"];
const OTHER = "#8a8a94";
const colourOfRun = (i) => COLOURS[i % COLOURS.length];
const colourOf = (i) => (i >= 0 && i < COLOURS.length ? COLOURS[i] : OTHER);
const DASHES = { solid: [], dashed: [8, 4], dotted: [2, 3] };
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- dark and light
const root = document.documentElement;
const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
root.dataset.theme = stored || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
byId("theme").addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a page from disk may store nothing */ }
  drawCharts();
  if (map) map.draw();
});

// ---- learning curves
let plots = [];
function drawCharts() {
  plots.forEach((plot) => plot.destroy());
  plots = (data.charts || []).map((chart, number) => {
    const box = document.querySelector(`[data-chart="${number}"] .plot`);
    const several = new Set(chart.series.map((one) => one.run)).size > 1;
    const axis = { stroke: css("--soft"), grid: { stroke: css("--line") }, ticks: { stroke: css("--line") } };
    const size = (u, values) => 22 + 7 * Math.max(2, ...(values || []).map((text) => text.length));
    const values = (u, splits) => splits.map((value) => String(+value.toPrecision(3)));
    return new uPlot({
      width: box.clientWidth || 320,
      height: 190,
      cursor: { sync: { key: "epochs" } },
      scales: { x: { time: false } },
      axes: [axis, { ...axis, size, values }],
      series: [{ label: "epoch" }, ...chart.series.map((one, i) => ({
        label: one.label, stroke: colourOfRun(several ? one.run : i), dash: DASHES[one.style], width: 2, spanGaps: true,
        points: { show: one.y.filter((value) => value !== null).length < 12 },
        value: (u, value) => (value === null || value === undefined ? "-" : String(+value.toPrecision(4))),
      }))],
    }, [chart.x, ...chart.series.map((one) => one.y)], box);
  });
}
if (byId("unzoom")) byId("unzoom").addEventListener("click", () => plots.forEach((plot) => {
  const x = plot.data[0];
  plot.setScale("x", { min: x[0], max: x[x.length - 1] });
}));
addEventListener("resize", () => plots.forEach((plot) => plot.setSize({ width: plot.root.parentNode.clientWidth, height: 190 })));

// ---- reconstructions over time
document.querySelectorAll(".steps").forEach((section) => {
  const steps = data.reconstructions[section.dataset.run];
  const image = section.querySelector("img");
  section.querySelector("input").addEventListener("input", (event) => {
    const now = steps[event.target.value];
    image.src = now.src;
    image.alt = `Original, corrupted and reconstructed images after step ${now.step}`;
    section.querySelector("output").textContent = now.step;
  });
});

// ---- tiles: parts of one large picture
const atlas = data.atlas;
let sheet = null;
let map = null;
if (atlas) {
  const bytes = Uint8Array.from(atob(atlas.data), (letter) => letter.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
  const style = document.createElement("style");
  style.textContent = `.tile { background-image: url(${address}); background-size: ${atlas.columns * 100}% ${atlas.rows * 100}%; }`;
  document.head.append(style);
  sheet = new Image();
  sheet.src = address;
}
const share = (k, n) => (n > 1 ? (100 * k) / (n - 1) : 0);
function paint(tile) {
  const i = +tile.dataset.i;
  tile.style.backgroundPosition = `${share(i % atlas.columns, atlas.columns)}% ${share(Math.floor(i / atlas.columns), atlas.rows)}%`;
  if (atlas.side < 48) tile.classList.add("small-pixels");
}
function makeTile(i) {
  const tile = document.createElement("button");
  tile.type = "button";
  tile.className = "tile";
  tile.dataset.i = i;
  tile.title = data.names[i];
  tile.setAttribute("aria-label", data.names[i]);
  paint(tile);
  return tile;
}
function figure(i, caption, kind) {
  const box = document.createElement("figure");
  const text = document.createElement("figcaption");
  text.textContent = caption;
  box.className = kind || "";
  box.append(makeTile(i), text);
  return box;
}

// ---- nearest neighbours
const short = (name) => name.split("/").pop();
let query = 0;
function showNeighbours(i, move) {
  query = i;
  const near = data.neighbours[byId("token").value];
  const figures = near.tiles[i].map((j, k) => figure(j, `${near.similarity[i][k].toFixed(3)} ${short(data.names[j])}`));
  byId("near").replaceChildren(figure(i, data.names[i], "query"), ...figures);
  byId("near").querySelector(".query .tile").setAttribute("aria-current", "true");
  if (!figures.length) byId("near").append("There is no other image.");
  if (map) map.mark(i);
  if (move) byId("neighbours").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}
const PAGE = 60;
let first = 0;
function browse() {
  const wanted = byId("filter").value.toLowerCase();
  const found = data.names.slice(0, data.counts.shown).map((name, i) => [name, i]).filter(([name]) => name.toLowerCase().includes(wanted));
  first = Math.max(0, Math.min(first, PAGE * Math.floor((found.length - 1) / PAGE)));
  byId("browse").replaceChildren(...found.slice(first, first + PAGE).map(([, i]) => makeTile(i)));
  byId("place").textContent = found.length ? `${first + 1} to ${Math.min(first + PAGE, found.length)} of ${found.length}` : "no image";
  byId("earlier").disabled = first === 0;
  byId("later").disabled = first + PAGE >= found.length;
}

// ---- the map
function makeMap() {
  const canvas = byId("canvas");
  const pen = canvas.getContext("2d");
  const places = data.map.places;
  let zoom = 1, left = 0, top = 0, marked = -1; // the map's corner is at (-left, -top) * zoom * size
  const span = (axis) => Math.max(0.05, ...places.map((place) => 2 * Math.abs(place[axis] - 0.5)));
  const [width, height] = [span(0), span(1)];
  const size = () => Math.min((canvas.clientWidth - 40) / width, (canvas.clientHeight - 40) / height);
  const middle = () => [(canvas.clientWidth - size()) / 2, (canvas.clientHeight - size()) / 2];
  const at = (i) => [middle()[0] + (places[i][0] - left) * size() * zoom, middle()[1] + (places[i][1] - top) * size() * zoom];
  const side = () => Math.max(5, Math.min(64, (size() * zoom * Math.sqrt(width * height)) / Math.sqrt(places.length) / 1.3));

  function draw() {
    const ratio = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    const group = data.map.groups[byId("colour").value], s = side();
    const order = groupOrder(group);
    places.forEach((_, i) => {
      const [x, y] = at(i);
      if (x < -s || y < -s || x > canvas.clientWidth + s || y > canvas.clientHeight + s) return;
      pen.fillStyle = colourOf(order.get(group.of[i]) ?? -1);
      if (s < 9) {
        pen.beginPath();
        pen.arc(x, y, s / 2, 0, 7);
        pen.fill();
        return;
      }
      const frame = s < 24 ? 1 : 2;
      pen.fillRect(x - s / 2 - frame, y - s / 2 - frame, s + 2 * frame, s + 2 * frame);
      const column = i % atlas.columns, row = Math.floor(i / atlas.columns);
      pen.drawImage(sheet, column * atlas.side, row * atlas.side, atlas.side, atlas.side, x - s / 2, y - s / 2, s, s);
    });
    if (marked >= 0 && marked < places.length) {
      const [x, y] = at(marked);
      pen.strokeStyle = css("--ink");
      pen.lineWidth = 3;
      pen.strokeRect(x - s / 2 - 4, y - s / 2 - 4, s + 8, s + 8);
    }
    canvas.dataset.zoom = zoom.toFixed(2);
  }
  function zoomAt(factor, x, y) {
    const [mx, my] = middle(), next = Math.max(0.5, Math.min(200, zoom * factor));
    left += (x - mx) / size() * (1 / zoom - 1 / next);
    top += (y - my) / size() * (1 / zoom - 1 / next);
    zoom = next;
    draw();
  }
  const zoomMiddle = (factor) => zoomAt(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
  function move(dx, dy) {
    left -= dx / (size() * zoom);
    top -= dy / (size() * zoom);
    draw();
  }
  function nearestTo(x, y) {
    let best = 0, least = Infinity;
    places.forEach((_, i) => {
      const [px, py] = at(i), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }
  const pointers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const dx = event.offsetX - last.offsetX, dy = event.offsetY - last.offsetY;
    moved += Math.abs(dx) + Math.abs(dy);
    const other = [...pointers.values()].find((one) => one.pointerId !== event.pointerId);
    pointers.set(event.pointerId, event);
    if (!other) return move(dx, dy);
    const apart = (one) => Math.hypot(one.offsetX - other.offsetX, one.offsetY - other.offsetY) || 1;
    zoomAt(apart(event) / apart(last), (event.offsetX + other.offsetX) / 2, (event.offsetY + other.offsetY) / 2);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (pointers.size === 1 && moved < 5) showNeighbours(nearestTo(event.offsetX, event.offsetY), true);
    pointers.delete(event.pointerId);
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  const keys = {
    "+": () => zoomMiddle(1.4), "=": () => zoomMiddle(1.4), "-": () => zoomMiddle(1 / 1.4),
    ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
    Enter: () => showNeighbours(nearestTo(canvas.clientWidth / 2, canvas.clientHeight / 2), true),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  byId("closer").addEventListener("click", () => zoomMiddle(1.6));
  byId("farther").addEventListener("click", () => zoomMiddle(1 / 1.6));
  byId("whole").addEventListener("click", () => { [zoom, left, top] = [1, 0, 0]; draw(); });
  byId("colour").addEventListener("change", () => { legend(); draw(); });
  addEventListener("resize", draw);
  return { draw, mark: (i) => { marked = i; draw(); } };
}
// The largest groups have colours, in the order of their size; clusters are numbered by it.
function groupOrder(group) {
  if (group.title === "cluster") return new Map(group.names.map((_, i) => [i, i]));
  const sizes = new Map();
  group.of.forEach((one) => { if (one >= 0) sizes.set(one, (sizes.get(one) || 0) + 1); });
  return new Map([...sizes].sort((a, b) => b[1] - a[1]).map(([one], place) => [one, place]));
}
function legend() {
  const group = data.map.groups[byId("colour").value], order = groupOrder(group);
  const rows = [...order].slice(0, COLOURS.length).map(([one, place]) => [group.names[one], colourOf(place)]);
  if (order.size > COLOURS.length || group.of.includes(-1)) rows.push(["all others", OTHER]);
  byId("legend").replaceChildren(...rows.map(([name, colour]) => {
    const line = document.createElement("li"), dot = document.createElement("i");
    dot.style.background = colour;
    line.append(dot, name);
    return line;
  }));
}

// ---- start
drawCharts();
if (atlas) {
  document.querySelectorAll(".tile").forEach(paint);
  document.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) showNeighbours(+tile.dataset.i, !tile.closest("#neighbours"));
  });
  byId("token").addEventListener("change", () => showNeighbours(query, false));
  byId("filter").addEventListener("input", () => { first = 0; browse(); });
  byId("earlier").addEventListener("click", () => { first -= PAGE; browse(); });
  byId("later").addEventListener("click", () => { first += PAGE; browse(); });
  map = makeMap();
  legend();
  browse();
  showNeighbours(0, false);
  sheet.decode().then(() => map.draw());
}
if (data.refresh) {
  const button = byId("refresh");
  let paused = false;
  try { paused = sessionStorage.getItem("paused") === "yes"; } catch { /* reloads */ }
  const label = () => {
    button.setAttribute("aria-pressed", String(!paused));
    button.textContent = paused ? "Does not reload" : `Reloads every ${data.refresh} s`;
  };
  button.addEventListener("click", () => {
    paused = !paused;
    try { sessionStorage.setItem("paused", paused ? "yes" : "no"); } catch { /* only until the next reload */ }
    label();
  });
  label();
  setInterval(() => { if (!paused) location.reload(); }, 1000 * data.refresh);
}
