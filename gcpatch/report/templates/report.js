/* ---- the settings: a group per nested object, what is deeper with dots in its name */
const said = v => typeof v === "string" ? v : JSON.stringify(v);
const isGroup = v => v !== null && typeof v === "object" && (!Array.isArray(v) || v.some(isGroup));
const flat = (name, v) => isGroup(v)
  ? Object.entries(v).flatMap(([key, inner]) => flat(name ? `${name}.${key}` : key, inner))
  : [[name, Array.isArray(v) ? v.map(said).join(", ") : said(v)]];

function list(parent, entries) {
  const dl = make("dl", parent);
  for (const [name, text] of entries) {
    const line = make("div", dl);
    make("dt", line, name);
    make("dd", line, text);
  }
}
function fold(parent, name, value, most) {
  const details = make("details", parent), entries = flat("", value);
  details.open = entries.length <= most;
  make("summary", details, name);
  list(details, entries);
}
const {settings: inner, ...outer} = data.settings;
const settings = Object.entries(isGroup(inner) ? {...inner, ...outer} : data.settings);
const plain = settings.filter(([, v]) => !isGroup(v)).flatMap(([name, v]) => flat(name, v));
list(byId("run"), plain);
for (const [name, v] of settings) if (isGroup(v)) fold(byId("run"), name, v, name === "parts" ? 0 : 20);
if (Object.keys(data.summary).length) fold(byId("run"), "summary.json", data.summary, 0);
byId("run-name").textContent = `All ${many(flat("", data.settings).length)} settings, versions and the summary`;

/* ---- a card: the four tiles of an image, and what the attack was after */
function about(row, parent) {
  const truth = at("label", row), steps = at("steps", row), file = panelOf(row);
  make("b", parent, "Target: " + (at("target", row) ?? "–"));
  if (truth) parent.append(` · true class: ${truth}`);
  if (steps !== null) parent.append(` · ${many(steps)} step${steps === 1 ? "" : "s"}`);
  if (!file) return;
  parent.append(" · ");
  make("a", parent, "panel").href = file;
}
function tiles(row) {
  const [name, clean, after] = ["id", "clean", "adversarial"].map(key => at(key, row) ?? "–");
  const target = explainedClass(row, after), ring = at("energy_ring_adversarial", row);
  const chance = side => "probability " + shareText(at(side + ".probability", row));
  const heat = shareText(at("energy_adversarial", row)) + " in the patch" +
    (ring === null ? "" : `, ${shareText(ring)} with its ring`);
  return [
    {alt: "Clean image " + name, line: "clean: " + clean, small: chance("clean")},
    {alt: `Map of clean ${name} for ${clean}`, line: "explains: " + clean, small: "the predicted class"},
    {alt: "Attacked image " + name, line: "attacked: " + after, small: chance("adversarial")},
    {alt: `Map of attacked ${name} for ${target}`, line: "explains: " + target, small: heat,
      empty: at("map_empty", row) ? "no evidence for this class" : ""},
  ];
}

/* ---- histograms of the rows that are left */
const BINS = 20, WIDE = 380, HIGH = 150;
const measured = [
  {title: "Energy in the patch", kind: "share", keys: {energy_clean: "clean", energy_adversarial: "attacked"}},
  {title: "Steps", kind: "count", keys: {steps: "attacked"}},
  {title: "Confidence in the class seen", kind: "share",
    keys: {"clean.probability": "clean", "png.probability": "attacked"}},
];
function middle(values) {
  const up = values.toSorted((a, b) => a - b), half = up.length >> 1;
  return up.length % 2 ? up[half] : (up[half - 1] + up[half]) / 2;
}
function histogram({title, kind, keys}) {
  const series = Object.entries(keys).map(([key, label]) =>
    ({label, values: kept.map(row => columnOf[key].values[row]).filter(v => v !== null)}));
  const all = series.flatMap(s => s.values);
  if (!all.length) return;
  const top = kind === "share" ? 1 : all.reduce((a, b) => Math.max(a, b), 1);
  const counts = series.map(({values}) => {
    const bins = new Array(BINS).fill(0);
    for (const v of values) bins[Math.min(BINS - 1, Math.max(0, Math.floor(v / top * BINS)))]++;
    return bins;
  });
  const most = Math.max(...counts.flat()), show = formats[kind];
  const told = series.filter(s => s.values.length).map(s =>
    `${s.label} median ${show(middle(s.values))}`).join(", ");
  const box = make("div", byId("histograms"), undefined, "chart");
  make("h3", box, title);
  make("p", box, told, "soft");
  const label = `${title} of ${many(kept.length)} rows: ${told}`;
  const svg = draw("svg", box, {viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label});
  const floor = HIGH - 22, left = 34, step = (WIDE - left - 8) / BINS, width = step * .84 / series.length;
  draw("text", svg, {x: left - 6, y: 14, "text-anchor": "end"}, many(most));
  draw("line", svg, {class: "grid", x1: left, x2: WIDE - 8, y1: 10, y2: 10});
  draw("line", svg, {class: "axis", x1: left, x2: WIDE - 8, y1: floor, y2: floor});
  for (const [x, text] of [[0, show(0)], [.5, show(top / 2)], [1, show(top)]]) {
    const place = ["start", "middle", "end"][2 * x];
    draw("text", svg, {x: left + x * step * BINS, y: HIGH - 6, "text-anchor": place}, text);
  }
  counts.forEach((bins, n) => bins.forEach((count, i) => {
    if (!count) return;
    const height = Math.max(1.5, count / most * (floor - 10));
    const bar = draw("rect", svg, {class: series[n].label, x: left + i * step + n * width, width,
      y: floor - height, height});
    draw("title", bar, {}, `${series[n].label}, ${show(i / BINS * top)} to ${show((i + 1) / BINS * top)}: ${many(count)}`);
  }));
}
function histograms() {
  byId("histograms").textContent = "";
  measured.forEach(histogram);
}

/* ---- what failed */
const {counts} = data;
if (counts.failed) {
  byId("failed").hidden = byId("to-failed").hidden = false;
  const failed = order.filter(row => at("status", row) === "failed").slice(0, 200);
  byId("failures-note").textContent = `${many(counts.failed)} of ${many(counts.records)} images have no result` +
    (failed.length < counts.failed ? `; the first ${many(failed.length)} (the table has all):` : ":");
  for (const row of failed) {
    const item = make("li", byId("failures"));
    make("b", item, at("id", row) ?? "–");
    if (at("source", row)) make("span", item, " " + at("source", row), "soft");
    make("p", item, at("error", row));
  }
}

/* ---- the losses: a band in which most images lie, and their median */
const W = 380, H = 250, LEFT = 62, RIGHT = 12, TOP = 10, BOTTOM = 40;
const terms = {total: "Total loss", cross_entropy: "Cross-entropy", explanation: "Explanation loss"};

function logTicks(low, high) {
  const span = Math.log10(high / low), stride = Math.ceil(span / 7), ticks = [];
  const parts = span < 1.6 ? [1, 2, 5] : span < 3 ? [1, 3] : [1];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
    if (e % stride === 0) ticks.push(...parts.map(m => m * 10 ** e));
  }
  return ticks.filter(t => t >= low * .999 && t <= high * 1.001);
}

function tickText(v) {
  const size = Math.abs(v), short = Number(v.toPrecision(3));
  return (size < 1e-12 ? "0" : size >= 1e5 || size < 1e-3 ? short.toExponential() : String(short))
    .replace("e+", "e").replaceAll("-", "−");
}

function range(band) {
  const values = [...band.low, ...band.high].filter(v => v !== null);
  const positive = values.filter(v => v > 0);
  return {low: Math.min(...values), high: Math.max(...values), least: Math.min(...positive)};
}

function chart(term, wish) {
  const box = make("div", byId("charts"), undefined, "chart"), band = data.curves[term];
  make("h3", box, terms[term]);
  let {low, high, least} = range(band);
  const possible = low >= 0 && high > 0 && high >= least;
  const useful = possible && high / Math.max(least, high * 1e-6) > 50;
  const log = wish === "log" ? possible : wish === "auto" && useful;
  const title = `${terms[term]} by step, ${log ? "logarithmic" : "linear"} axis`;
  const svg = draw("svg", box, {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title});
  if (!(high >= low)) return void draw("text", svg, {x: W / 2, y: H / 2, "text-anchor": "middle"}, "no values");
  const lost = log && low < high * 1e-6;
  if (log) { low = Math.max(least, high * 1e-6) / 1.15; high *= 1.15; }
  else {
    const pad = (high - low || Math.abs(high) || 1) * .04;
    low = low >= 0 && low < high / 2 ? 0 : low - pad;
    high += pad;
  }
  const right = Math.max(1, data.curves.last), scale = log ? Math.log : Number;
  const x = v => LEFT + v / right * (W - LEFT - RIGHT);
  const y = v => H - BOTTOM - (scale(Math.max(v, low)) - scale(low)) / (scale(high) - scale(low)) * (H - TOP - BOTTOM);
  for (const t of log ? logTicks(low, high) : niceTicks(low, high, 5)) {
    draw("line", svg, {class: "grid", x1: LEFT, x2: W - RIGHT, y1: y(t), y2: y(t)});
    draw("text", svg, {x: LEFT - 6, y: y(t) + 4, "text-anchor": "end"}, tickText(t));
  }
  for (const t of niceTicks(0, right, 4).filter(Number.isInteger)) {
    draw("line", svg, {class: "axis", x1: x(t), x2: x(t), y1: H - BOTTOM, y2: H - BOTTOM + 4});
    draw("text", svg, {x: x(t), y: H - BOTTOM + 17, "text-anchor": "middle"}, many(t));
  }
  draw("line", svg, {class: "axis", x1: LEFT, x2: W - RIGHT, y1: H - BOTTOM, y2: H - BOTTOM});
  draw("line", svg, {class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: H - BOTTOM});
  draw("text", svg, {x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle"}, "step");
  const middle = (TOP + H - BOTTOM) / 2;
  draw("text", svg, {x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})`},
    terms[term].toLowerCase() + (log ? " (log)" : ""));
  const point = (i, v) => x(data.curves.x[i]).toFixed(1) + " " + y(v).toFixed(1);
  for (const run of runs(band.median)) {
    const upper = run.map(i => point(i, band.high[i])), lower = run.map(i => point(i, band.low[i]));
    draw("path", svg, {class: "band", d: "M" + [...upper, ...lower.reverse()].join("L") + "Z"});
    draw("path", svg, {class: "median", d: "M" + run.map(i => point(i, band.median[i])).join("L") + "h.1"});
  }
  const remark = wish === "log" && !log ? "Drawn linearly: not every value is positive."
    : lost ? "Values below a millionth of the largest lie on the lower edge." : "";
  if (remark) make("p", box, remark, "soft");
}

/* The places of values in a row, without the gaps where there is none. */
function runs(values) {
  const found = [];
  values.forEach((v, i) => {
    if (v === null) return;
    if (i && values[i - 1] !== null) found.at(-1).push(i); else found.push([i]);
  });
  return found;
}

function charts() {
  byId("charts").textContent = "";
  const wish = document.querySelector("input[name=scale]:checked").value;
  for (const term of Object.keys(terms)) chart(term, wish);
}
if (data.curves) {
  byId("curves").hidden = false;
  byId("losses-note").textContent = `The median of ${many(data.curves.count)} images, and the band ` +
    "between their 10 % and 90 % quantiles; an image that stopped early counts with its last value.";
  for (const pick of document.querySelectorAll("input[name=scale]")) pick.addEventListener("change", charts);
  charts();
} else {
  byId("losses-note").textContent = "None: histories.npz is missing, empty or unreadable.";
}
start();
