const root = document.documentElement;
addEventListener("error", event => { root.dataset.error = event.message; });
const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

function make(tag, parent, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  if (parent) parent.append(node);
  return node;
}

const {format: many} = new Intl.NumberFormat("en");
const shareText = v => typeof v !== "number" ? "–" : v > 0 && v < .001 ? "<0.1\u00a0%"
  : v > .999 && v < 1 ? ">99.9\u00a0%" : (100 * v).toFixed(1) + "\u00a0%";
const trim = text => text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");
const formats = {
  share: shareText,
  count: many,
  flag: v => v ? "yes" : "no",
  number: v => {
    const size = Math.abs(v);
    return size && (size < 1e-3 || size >= 1e5) ? trim(v.toExponential(2))
      : trim(v.toFixed(Math.max(0, 3 - Math.floor(Math.log10(size || 1)))));
  },
};

/* ---- the columns: what is said of each row; a name is what it shares with the one before, then the rest */
for (const column of data.columns) {
  const coded = column.names ?? [], names = [];
  for (let i = 0, name = ""; i < coded.length; i += 2) {
    names.push(name = name.slice(0, coded[i]) + coded[i + 1]);
  }
  if (column.names) column.names = names;
}
const columnOf = Object.fromEntries(data.columns.map(c => [c.key, c]));
function at(key, row) {
  const column = columnOf[key], value = column?.values[row] ?? null;
  return value === null || !column.names ? value : column.names[value];
}
function explainedClass(row, seen) {  // the target, or of an untargeted attack the class seen
  const target = at("target", row);
  return target === null || target === "untargeted" ? seen : target;
}
function badge(parent, status) {
  const look = {both: "both", failed: "bad", "not fooled": "", skipped: ""}[status] ?? "half";
  make("span", parent, status, "badge " + look);
}

/* ---- the pictures: a card of four tiles for each row that has some, made when it is first shown */
const FIRST = 12, MORE = 24;
const pictures = new Map(data.cards.map(card => [card.row, card.pictures])), made = new Map();
let listed = [], shown = FIRST;

function tile(parent, source, {alt, line, small, empty}) {
  if (!source) return;
  const box = make("figure", parent);
  if (empty) make("div", box, empty, "blank");
  else {
    const image = make("img", box);
    Object.assign(image, {loading: "lazy", decoding: "async", alt, width: 224, height: 224});
    image.src = source;
  }
  make("small", make("figcaption", box, line), small);
}
function card(row) {
  if (made.has(row)) return made.get(row);
  const box = make("article", null, undefined, "card"), head = make("header", box);
  made.set(row, box);
  box.id = "card-" + row;
  make("h4", head, at("id", row) ?? "–");
  badge(head, at("status", row));
  about(row, make("p", box, undefined, "soft"));
  const four = make("div", box, undefined, "tiles");
  tiles(row).forEach((told, n) => tile(four, pictures.get(row)[n], told));
  return box;
}
function showCards() {
  byId("cards").replaceChildren(...listed.slice(0, shown).map(card));
  const left = listed.length - shown;
  byId("more").hidden = left <= 0;
  byId("more").textContent = `Show ${many(Math.min(left, MORE))} more`;
  byId("cards-note").textContent = `${many(Math.min(shown, listed.length))} of ` +
    `${many(listed.length)} pictures on this page for the ${many(kept.length)} rows above, in their order.`;
}
byId("more").addEventListener("click", () => { shown += MORE; showCards(); });
function reveal(row) {
  shown = Math.max(shown, listed.indexOf(row) + 1);
  showCards();
}
function panelOf(row) {
  try {
    const folder = data.links.folders[data.links.of[row]];
    return folder && folder + encodeURIComponent(at("id", row)) + "/panel.png";
  } catch { return undefined; /* a name that no address can say */ }
}

/* ---- the table: `order` are all rows as sorted, `kept` those that the filter leaves */
const ROWS = 100;
let order = columnOf.status.values.map((_, row) => row), kept = order, page = 0;
const visible = new Set(data.columns.filter(c => !c.folded).map(c => c.key));
const sorted = {key: null, down: false};

function line(row) {
  const tr = document.createElement("tr");
  for (const {key, kind, names} of data.columns) {
    if (!visible.has(key)) continue;
    const value = at(key, row);
    const cell = make(key === "id" ? "th" : "td", tr, undefined, names ? "text" : "right");
    if (key === "id") cell.scope = "row";
    if (value === null) cell.textContent = "–";
    else if (key === "status") badge(cell, value);
    else if (key === "id") nameOf(row, cell);
    else cell.textContent = names ? value : formats[kind](value);
    if (names) cell.title = (key === "status" && (at("error", row) ?? at("skipped", row))) || value || "";
  }
  return tr;
}
function nameOf(row, cell) {
  const file = panelOf(row), name = at("id", row);
  if (pictures.has(row)) {
    const link = make("a", cell, name);
    link.href = "#card-" + row;
    link.addEventListener("click", () => reveal(row));
  } else if (file) make("a", cell, name).href = file;
  else cell.textContent = name;
}

function turn(to) {
  const pages = Math.max(1, Math.ceil(kept.length / ROWS));
  page = Math.min(Math.max(to || 0, 0), pages - 1);
  byId("rows").replaceChildren(...kept.slice(page * ROWS, (page + 1) * ROWS).map(line));
  byId("turn").hidden = pages === 1;
  byId("page").value = page + 1;
  byId("page").max = pages;
  byId("pages").textContent = "of " + many(pages);
  byId("previous").disabled = page === 0;
  byId("next").disabled = page === pages - 1;
}
function leaf(to) {
  turn(to);
  byId("table").scrollTop = 0; /* apart, because it has the page laid out at once */
}
byId("previous").addEventListener("click", () => leaf(page - 1));
byId("next").addEventListener("click", () => leaf(page + 1));
byId("page").addEventListener("change", () => leaf(byId("page").value - 1));

const notFooled = status => !["both", "class", "failed", "skipped"].includes(status);
const outcomes = {"": () => true, "not fooled": notFooled};
function filter() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = data.columns.filter(c => c.names), chosen = outcomes[byId("status").value];
  const hits = words.map(word => texts.map(c => c.names.map(n => n.toLowerCase().includes(word))));
  kept = order.filter(row => chosen(at("status", row)) &&
    hits.every(hit => hit.some((has, i) => has[texts[i].values[row]])));
  byId("count").textContent = `${many(kept.length)} of ${many(order.length)} rows`;
  root.dataset.shown = kept.length;
  turn(0);
  listed = kept.filter(row => pictures.has(row));
  shown = FIRST;
  showCards();
  histograms();
}

function sort(key, down) {
  const {values} = columnOf[key], sign = down ? -1 : 1;
  Object.assign(sorted, {key, down});
  order.sort((a, b) => {
    const x = values[a], y = values[b];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  });
  filter();
}

function heads() {
  byId("columns").textContent = "";
  for (const {key, heading, names} of data.columns) {
    if (!visible.has(key)) continue;
    const cell = make("th", byId("columns"), undefined, names ? "" : "right");
    cell.scope = "col";
    if (key === sorted.key) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    const button = make("button", cell, heading);
    button.type = "button";
    button.addEventListener("click", () => {
      sort(key, key === sorted.key ? !sorted.down : !names);
      for (const other of byId("columns").children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    });
  }
}
for (const {key, heading} of data.columns.slice(1)) {
  const label = make("label", byId("choices")), box = make("input", label);
  Object.assign(box, {type: "checkbox", checked: visible.has(key)});
  label.append(" " + heading);
  box.addEventListener("change", () => {
    if (box.checked) visible.add(key); else visible.delete(key);
    heads();
    turn(page);
  });
}
function offer() {
  const counts = {};
  for (const place of columnOf.status.values) counts[place] = (counts[place] ?? 0) + 1;
  const {names} = columnOf.status;
  const all = names.reduce((sum, name, n) => sum + (notFooled(name) ? counts[n] : 0), 0);
  if (data.counts && all) {
    make("option", byId("status"), `All that was not fooled (${many(all)})`).value = "not fooled";
  }
  names.forEach((name, n) => {
    outcomes["=" + name] = status => status === name;
    make("option", byId("status"), `${name} (${many(counts[n])})`).value = "=" + name;
  });
}
function start() {
  offer();
  heads();
  byId("search").addEventListener("input", filter);
  byId("status").addEventListener("change", filter);
  filter();
  const row = Number(/^#card-(\d+)$/.exec(location.hash)?.[1] ?? -1);
  if (pictures.has(row)) {
    reveal(row);
    byId("card-" + row).scrollIntoView();
  }
  root.dataset.rows = order.length;
  root.dataset.ready = "yes";
}

/* ---- drawings */
const space = byId("ink").namespaceURI;

function draw(tag, parent, attributes, text) {
  const node = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}
function niceTicks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(m => m * power >= raw * .999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step || 0);
  return ticks;
}
