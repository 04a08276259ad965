"use strict";
// Asks its own node every second and draws what it answers. Everything shown is set as text, never as HTML:
// names, addresses and messages come from clients and peers.

const POLL_MS = 1000;
const SLOW_POLLS = 5; // collections, version and permission: every so many polls
const ANSWER_MS = 8000;
const SPAN_MS = 120000; // of the charts
const SERIES = 8;
const ROWS_MAX = 200;
const EVENTS_SHOWN = 100;
const KEY = "vectorizer.key";
const KINDS = { Connected: "good", Lagging: "warn", Syncing: "busy", Disconnected: "bad" };

const state = {
  status: null, health: null, access: null, samples: [], lags: new Map(), colours: new Map(),
  lastEvent: 0, lostAt: 0, asking: false, polls: 0,
  locked: false, // the node wants a key
  declined: false, // and its user has closed the question
};

const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("data-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function write(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

function show(element, visible) {
  element.hidden = !visible;
}

// -- words ---------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (value >= 1024 && step < units.length - 1) { value /= 1024; step += 1; }
  return `${short.format(value)} ${units[step]}`;
}

function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${whole.format(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${short.format(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function rate(perSecond) {
  return perSecond === null ? "–" : `${(perSecond < 10 ? short : whole).format(perSecond)}/s`;
}

function syncText(sync) {
  const eta = sync.eta_secs === null ? "" : `, ${duration(sync.eta_secs * 1000)} to go`;
  return `${short.format(sync.percent)} % of ${bytes(sync.bytes_total)}${eta}`;
}

// The dashboard of another node, if its address can be the address of one.
function dashboardOf(address) {
  if (!address) return null;
  try {
    const url = new URL(address.includes("://") ? address : `${location.protocol}//${address}`);
    return /^https?:$/.test(url.protocol) ? new URL("/dashboard", url).href : null;
  } catch {
    return null;
  }
}

// -- asking --------------------------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, document) {
    super(document?.message ?? `the node answered ${status}`);
    this.status = status;
    this.type = document?.error_type ?? "";
  }
}

async function ask(path, body) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers["X-API-Key"] = key;
  const options = { headers, cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  } else {
    options.signal = AbortSignal.timeout(ANSWER_MS);
  }
  const answer = await fetch(path, options);
  const document = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refusal(answer.status, document);
  return document;
}

async function poll() {
  if (state.asking || document.hidden || state.declined || $("dialog").dataset.purpose === "key") return;
  state.asking = true;
  try {
    if (state.polls % SLOW_POLLS === 0) {
      state.health = await ask("health");
      state.access = await ask("dashboard/access");
    }
    const status = await ask("replication/status");
    sample(status);
    state.status = status;
    state.lostAt = 0;
    state.locked = false;
    const found = await ask(`events?after=${state.lastEvent}&limit=${EVENTS_SHOWN}`);
    if (state.polls % SLOW_POLLS === 0) drawCollections(status.serves_data ? await ask("collections") : null);
    drawEvents(found.events);
    state.polls += 1;
  } catch (error) {
    failed(error);
  } finally {
    state.asking = false;
  }
  draw();
}

function failed(error) {
  state.polls = 0; // ask everything once it answers again
  if (error instanceof Refusal && error.status === 401) {
    state.locked = true;
    askForKey(sessionStorage.getItem(KEY) ? error.message : "");
    return;
  }
  state.lostAt ||= Date.now();
  const why = error instanceof Refusal ? `: ${error.message}` : "";
  write($("trouble"), `No answer from this node for ${duration(Date.now() - state.lostAt)}${why}. Asking again…`);
}

function sample(status) {
  const now = performance.now();
  const last = state.samples.at(-1);
  let perSecond = null;
  if (last && now > last.at) perSecond = Math.max(0, status.offset - last.offset) / ((now - last.at) / 1000);
  state.samples.push({ at: now, offset: status.offset, value: perSecond });
  state.samples = state.samples.filter((one) => one.at >= now - SPAN_MS - 5000);
  const lagging = status.link === null ? [] : [["self", "this node", status.stats.lag_ms]];
  for (const row of status.replicas) {
    if (row.status !== "Disconnected") lagging.push([row.id, row.rest_address || row.address, row.lag_ms]);
  }
  for (const [id, name, lag] of lagging) {
    if (!state.lags.has(id)) state.lags.set(id, { name, points: [] });
    const line = state.lags.get(id);
    line.name = name;
    line.points.push({ at: now, value: lag });
  }
  for (const [id, line] of state.lags) {
    line.points = line.points.filter((one) => one.at >= now - SPAN_MS - 5000);
    if (line.points.length === 0) state.lags.delete(id);
    else if (!state.colours.has(id)) state.colours.set(id, state.colours.size % SERIES);
  }
}

// -- drawing -------------------------------------------------------------------------------------------------

function draw() {
  if (state.locked) write($("trouble"), "This node shows nothing without an API key.");
  const trouble = state.lostAt !== 0 || state.locked;
  show($("trouble"), trouble);
  show($("key"), state.locked || Boolean(state.access?.enforced));
  $("main").classList.toggle("stale", trouble || state.status === null);
  if (state.status === null) return;
  drawHead(state.status);
  drawFigures(state.status);
  drawTopology(state.status);
  drawReplicas(state.status);
  drawCharts();
}

function drawHead(status) {
  write($("role"), status.role);
  const held = status.writes.deposed_by !== null ? "deposed: a newer master exists" : status.writes.held;
  const words = status.writes.taken ? ["takes writes", "good"]
    : !status.serves_data ? ["no complete data yet", "busy"]
    : held ? [String(held).replaceAll("_", " "), "warn"] : ["read only", ""];
  write($("writes"), words[0]);
  $("writes").className = `chip ${words[1]}`;
  const health = state.health;
  write($("about"), `${location.host} · node ${status.node_id.slice(0, 8)}` +
    (health ? ` · version ${health.version} · up ${duration(health.uptime_seconds * 1000)}` : "") +
    ` · fsync ${status.fsync}`);
  document.title = `${status.role} ${location.host} – Vectorizer`;
  const admin = state.access?.role === "admin";
  const moving = status.switchover.current !== null;
  show($("promote"), admin && status.role !== "Master");
  show($("switchover"), admin && status.role === "Master" && !moving);
  show($("abort"), admin && moving);
  show($("follow"), admin && !moving);
  const notices = [];
  if (moving) {
    const current = status.switchover.current;
    notices.push(`A switchover is under way (${current.step}), writes held for ${duration(current.held_ms)}.`);
  }
  if (status.sync) notices.push(`Full sync of this node: ${syncText(status.sync)}.`);
  if (status.link && status.link.last_error && !status.link.connected) {
    notices.push(`The link to the master is down: ${status.link.last_error.message}.`);
  }
  if (status.diverged.length) {
    const operations = status.diverged.reduce((sum, file) => sum + file.operations, 0);
    notices.push(`Diverged operations are kept: ${count(operations)} in ${plural(status.diverged.length, "file")}.`);
  }
  write($("notice"), notices.join(" "));
  show($("notice"), notices.length > 0);
}

function drawFigures(status) {
  const replica = status.link !== null;
  const linked = status.replicas.filter((row) => row.status !== "Disconnected").length;
  const figures = [
    ["offset", "Offset", count(status.offset), `durable ${count(status.durable_offset)}`],
    ["rate", "Throughput", rate(state.samples.at(-1).value), replica ? "operations applied" : "operations written"],
    ["lag", replica ? "Lag of this node" : "Slowest replica", status.enabled ? duration(status.stats.lag_ms) : "–",
      status.enabled ? plural(status.stats.lag_operations, "operation") : "no replication"],
    ["connected", "Replicas", `${linked} of ${status.replicas.length}`, "connected"],
    ["window", "Window", count(status.window.operations),
      status.window.operations === 0 ? "empty"
        : `${count(status.window.first_offset)} – ${count(status.window.last_offset)}`],
    ["epoch", "Epoch", count(status.epoch), plural(status.history.length, "mastership")],
    ["syncs", "Syncs", `${count(status.counters.full_syncs)} full`, `${count(status.counters.partial_syncs)} partial`],
  ];
  const list = $("figures");
  if (list.children.length === 0) {
    for (const [id] of figures) {
      list.append(make("div", { id: `figure-${id}` }, make("dt"), make("dd", {}, make("span"), make("small"))));
    }
  }
  for (const [id, title, value, note] of figures) {
    const box = $(`figure-${id}`);
    write(box.querySelector("dt"), title);
    write(box.querySelector("dd span"), value);
    write(box.querySelector("dd small"), note);
  }
}

// -- topology ------------------------------------------------------------------------------------------------

// Columns from the left: the master of this node, this node, its replicas.
function columnsOf(status) {
  const self = {
    id: status.node_id, parent: null, title: status.role, state: "this node", kind: "", address: location.host,
    numbers: `offset ${count(status.offset)}`, self: true,
  };
  const columns = [[self], status.replicas.map((row) => ({
    id: row.id, parent: self.id, title: "Replica", state: row.status, kind: KINDS[row.status],
    address: row.rest_address || row.address, rest: row.rest_address,
    numbers: row.sync ? syncText(row.sync) : `offset ${count(row.offset)} · lag ${duration(row.lag_ms)}`,
    flow: row.status === "Connected" || row.status === "Lagging",
  }))];
  const link = status.link;
  if (link !== null) {
    const kind = link.state === "streaming" ? "good" : link.connected ? "busy" : "bad";
    const known = link.master_node_id || "master";
    self.parent = known;
    self.edge = kind;
    self.flow = kind === "good";
    columns.unshift([{
      id: known, parent: null, title: "Master", state: link.state.replaceAll("_", " "), kind,
      address: link.master_rest_address || link.master_address, rest: link.master_rest_address,
      numbers: `offset ${count(link.master_offset)}`,
    }]);
  }
  return columns.filter((column) => column.length > 0);
}

function nodeBox(node) {
  const address = make(node.self ? "span" : "a", { className: "address" });
  const box = make("div", { className: "node", "data-node": node.id },
    make("div", { className: "top" }, make("span", { className: "title" }), make("span", { className: "chip" })),
    make("div", { className: "top" }, address), make("div", { className: "numbers" }));
  return box;
}

function fillBox(box, node) {
  box.className = `node${node.self ? " self" : ""} edge-${node.kind || "none"}`;
  box.setAttribute("data-status", node.state);
  write(box.querySelector(".title"), node.title);
  const chip = box.querySelector(".chip");
  write(chip, node.state);
  chip.className = `chip ${node.kind}`;
  const address = box.querySelector(".address");
  write(address, node.address);
  address.title = `${node.address}, node ${node.id}`;
  const href = dashboardOf(node.rest);
  if (href && !node.self) address.href = href;
  else address.removeAttribute("href");
  write(box.querySelector(".numbers"), node.numbers);
}

function drawTopology(status) {
  const columns = columnsOf(status);
  const signature = JSON.stringify(columns.map((column) => column.map((node) => node.id)));
  const tree = $("tree");
  if (tree.dataset.signature !== signature) {
    tree.dataset.signature = signature;
    tree.replaceChildren(...columns.map((column, depth) => make("div", {
      className: `column${depth ? " below" : ""}${depth > 1 ? " deeper" : ""}`,
    }, ...column.map(nodeBox))));
  }
  const boxes = new Map();
  for (const box of tree.querySelectorAll(".node")) boxes.set(box.dataset.node, box);
  const moving = (state.samples.at(-1)?.value ?? 0) > 0;
  const nodes = columns.flat();
  for (const node of nodes) fillBox(boxes.get(node.id), node);
  drawLinks(nodes.filter((node) => node.parent !== null && boxes.has(node.parent)), boxes, moving);
}

function drawLinks(nodes, boxes, moving) {
  const picture = $("links");
  const origin = picture.getBoundingClientRect();
  while (picture.children.length > nodes.length) picture.lastChild.remove();
  while (picture.children.length < nodes.length) {
    picture.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  }
  nodes.forEach((node, index) => {
    const from = boxes.get(node.parent).getBoundingClientRect();
    const to = boxes.get(node.id).getBoundingClientRect();
    const y = to.top + to.height / 2 - origin.top;
    let line;
    if (to.left > from.right) {
      const [x0, y0, x1] = [from.right - origin.left, from.top + from.height / 2 - origin.top, to.left - origin.left];
      const bend = (x1 - x0) / 2;
      line = `M${x0} ${y0} C${x0 + bend} ${y0} ${x1 - bend} ${y} ${x1} ${y}`;
    } else {
      const x = from.left - origin.left + 14;
      line = `M${x} ${from.bottom - origin.top} V${y} H${to.left - origin.left}`;
    }
    const path = picture.children[index];
    if (path.getAttribute("d") !== line) path.setAttribute("d", line);
    const names = `${node.edge ?? node.kind}${node.flow && moving ? " flow" : ""}`;
    if (path.getAttribute("class") !== names) path.setAttribute("class", names);
  });
}

// -- tables --------------------------------------------------------------------------------------------------

// rows: [key, [[text, note, extra] or text of each column]]. Cells are changed in place, so selections survive.
function drawTable(name, titles, rows) {
  const head = $(`${name}-head`);
  if (head.children.length === 0) {
    head.append(make("tr", {}, ...titles.map(([title, kind]) =>
      make("th", { scope: "col", className: kind, textContent: title }))));
  }
  const body = $(name);
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const wanted = rows.map(([key, cells]) => {
    const row = old.get(key) ?? make("tr", { "data-key": key }, ...titles.map(([title, kind]) =>
      make("td", { className: kind, "data-label": title }, make("span"), make("small"))));
    cells.forEach((cell, index) => fillCell(row.children[index], cell));
    return row;
  });
  if (wanted.length !== body.children.length || wanted.some((row, index) => body.children[index] !== row)) {
    body.replaceChildren(...wanted);
  }
}

function fillCell(element, cell) {
  const { text, note = "", kind = null, percent = null } = typeof cell === "object" ? cell : { text: cell };
  const [main, small] = [element.querySelector("span"), element.querySelector("small")];
  write(main, text);
  main.className = kind === null ? "" : `chip ${kind}`;
  write(small, note);
  show(small, note !== "");
  let bar = element.querySelector("progress");
  if (percent === null) bar?.remove();
  else {
    if (!bar) { bar = make("progress", { max: 100 }); small.before(bar); }
    bar.value = percent;
  }
}

function drawReplicas(status) {
  show($("replicas-section"), status.role === "Master" || status.replicas.length > 0);
  show($("no-replicas"), status.replicas.length === 0);
  const titles = [["Replica", ""], ["State", ""], ["Lag", "number"], ["Offset", "number"], ["Sync", ""],
    ["Heard", "number"], ["Sent", "number"]];
  show($("replicas-head"), status.replicas.length > 0);
  drawTable("replicas", titles, status.replicas.map((row) => [row.id, [
    { text: row.rest_address || row.address, note: `node ${row.id.slice(0, 8)}` },
    { text: row.status, kind: KINDS[row.status] ?? "", note: row.flapping ? "flapping"
      : (row.disconnected_reason ?? "").replaceAll("_", " ") },
    { text: duration(row.lag_ms), note: plural(row.lag_operations, "operation") },
    { text: count(row.offset), note: `durable ${count(row.durable_offset)}` },
    row.sync ? { text: `full: ${short.format(row.sync.percent)} %`, percent: row.sync.percent, note: syncText(row.sync) }
      : { text: `${count(row.full_syncs)} full, ${count(row.partial_syncs)} partial`,
        note: (row.last_sync_reason ?? "").replaceAll("_", " ") },
    { text: `${duration(row.heartbeat_age_ms)} ago` },
    { text: bytes(row.bytes_sent) },
  ]]));
}

function drawCollections(found) {
  const all = found === null ? [] : found.collections;
  const note = found === null ? "This node has no complete data yet." : all.length === 0 ? "There are none."
    : all.length > ROWS_MAX ? `The first ${ROWS_MAX} of ${count(all.length)} are shown.` : "";
  write($("no-collections"), note);
  show($("no-collections"), note !== "");
  show($("collections-head"), all.length > 0);
  const titles = [["Collection", ""], ["Vectors", "number"], ["Dimension", "number"], ["Metric", ""], ["Index", ""],
    ["Segments", "number"], ["On disk", "number"], ["In memory", "number"]];
  drawTable("collections", titles, all.slice(0, ROWS_MAX).map((one) => {
    const index = one.indexing_status;
    const percent = 100 * index.indexed_fraction;
    const scanned = one.vector_count - index.indexed_vectors;
    return [one.name, [
      { text: one.name }, { text: count(one.vector_count) }, { text: count(one.dimension) }, { text: one.metric },
      one.vector_count === 0 ? { text: "no vectors" }
        : { text: `${short.format(Math.floor(percent * 10) / 10)} % in graphs`, percent,
          note: scanned > 0 ? `${count(scanned)} are scanned` : "" },
      { text: count(index.segments), note: `${count(index.graphs)} with graph` },
      { text: bytes(one.size.disk_bytes) }, { text: bytes(one.size.memory_bytes) },
    ]];
  }));
}

function drawEvents(found) {
  if (found.length === 0) return;
  state.lastEvent = found.at(-1).number;
  const list = $("events");
  const kinds = { info: "", warning: "warn" };
  for (const event of found) {
    const fields = Object.entries(event.fields).map(([name, value]) => `${name} ${value}`).join(" · ");
    const time = new Date(event.time);
    list.prepend(make("li", { "data-event": event.event },
      make("time", { dateTime: event.time, title: event.time, textContent: time.toLocaleTimeString("en-GB") }),
      make("span", { className: `chip ${kinds[event.level] ?? "bad"}`, textContent: event.level }),
      make("span", { className: "what" }, make("b", { textContent: event.event.replaceAll("_", " ") }),
        make("span", { className: "faint", textContent: fields }))));
  }
  while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
  show($("no-events"), false);
}

// -- charts --------------------------------------------------------------------------------------------------

const pointers = new Map(); // canvas id -> x of the pointer above it

function drawCharts() {
  const values = state.samples.filter((one) => one.value !== null);
  const now = state.samples.at(-1).at;
  chart($("throughput"), [{ colour: 0, points: values, area: true }], rate, 10, now);
  const seen = nearest("throughput", values, now);
  legend("throughput", seen ? [[0, `${rate(seen.value)}${ago("throughput", seen, now)}`]] : []);
  $("throughput").setAttribute("aria-label", seen ? `Throughput: ${rate(seen.value)}` : "Throughput: not known yet");
  const lines = [...state.lags].map(([id, line]) => ({ colour: state.colours.get(id), ...line })).slice(0, SERIES);
  chart($("lag"), lines, duration, 100, now);
  const texts = lines.map((line) => {
    const point = nearest("lag", line.points, now);
    const gone = now - line.points.at(-1).at > 5 * POLL_MS;
    return [line.colour, gone && !pointers.has("lag") ? `${line.name} not connected`
      : `${line.name} ${duration(point.value)}${ago("lag", point, now)}`];
  });
  legend("lag", texts);
  $("lag").setAttribute("aria-label", `Lag: ${texts.map(([, text]) => text).join(", ") || "no replica"}`);
}

function ago(id, point, now) {
  return pointers.has(id) ? `, ${Math.round((now - point.at) / 1000)} s ago` : "";
}

// The point under the pointer, or the newest one.
function nearest(id, points, now) {
  if (points.length === 0 || !pointers.has(id)) return points.at(-1);
  const at = now - SPAN_MS * (1 - pointers.get(id));
  return points.reduce((best, one) => (Math.abs(one.at - at) < Math.abs(best.at - at) ? one : best));
}

function legend(name, texts) {
  const list = $(`${name}-legend`);
  while (list.children.length > texts.length) list.lastChild.remove();
  while (list.children.length < texts.length) {
    list.append(make("span", {}, make("i", { className: "swatch" }), make("span")));
  }
  texts.forEach(([colour, text], index) => {
    const [swatch, words] = list.children[index].children;
    swatch.className = `swatch s${colour}`;
    write(words, text);
  });
}

// The next of 1, 2, 5, 10, 20, 50 … above a value.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= value);
}

function chart(canvas, lines, words, floor, now) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const scale = devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const bottom = height - 18;
  const top = 14;
  const highest = Math.max(floor, ...lines.flatMap((line) => line.points.map((point) => point.value)));
  const limit = ceiling(highest);
  const x = (at) => width * (1 - (now - at) / SPAN_MS);
  const y = (value) => bottom - (bottom - top) * (value / limit);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = colour("--faint");
  pen.strokeStyle = colour("--line");
  for (const part of [0, 0.5, 1]) {
    const level = Math.round(y(limit * part)) + 0.5;
    pen.beginPath(); pen.moveTo(0, level); pen.lineTo(width, level); pen.stroke();
    if (part > 0) pen.fillText(words(limit * part), 2, level - 4);
  }
  for (const [part, text, align] of [[0, "2 min ago", "left"], [0.5, "1 min", "center"], [1, "now", "right"]]) {
    pen.textAlign = align;
    pen.fillText(text, width * part, height - 4);
  }
  for (const line of lines) {
    pen.strokeStyle = pen.fillStyle = colour(`--series-${line.colour}`);
    pen.lineWidth = 2;
    pen.lineJoin = "round";
    trace(pen, line, x, y, bottom);
  }
  if (pointers.has(canvas.id)) {
    const place = Math.round(width * pointers.get(canvas.id)) + 0.5;
    pen.strokeStyle = colour("--faint");
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(place, top); pen.lineTo(place, bottom); pen.stroke();
  }
}

function trace(pen, line, x, y, bottom) {
  if (line.points.length === 0) return;
  pen.beginPath();
  let last = null;
  for (const point of line.points) {
    // A gap in what is known is a gap in the line.
    if (last === null || point.at - last.at > 5 * POLL_MS) pen.moveTo(x(point.at), y(point.value));
    else pen.lineTo(x(point.at), y(point.value));
    last = point;
  }
  pen.stroke();
  if (line.area) {
    pen.lineTo(x(last.at), bottom);
    pen.lineTo(x(line.points[0].at), bottom);
    pen.globalAlpha = 0.12;
    pen.fill();
    pen.globalAlpha = 1;
  }
  pen.beginPath(); pen.arc(Math.min(x(last.at), pen.canvas.clientWidth - 4), y(last.value), 3, 0, 7); pen.fill();
}

// -- dialogs -------------------------------------------------------------------------------------------------

let confirmed = async () => {};

function openDialog(purpose, title, verb, parts, action) {
  const dialog = $("dialog");
  dialog.dataset.purpose = purpose;
  write($("dialog-title"), title);
  write($("confirm"), verb);
  $("confirm").disabled = false;
  show($("dialog-error"), false);
  $("dialog-body").replaceChildren(...parts);
  confirmed = action;
  if (!dialog.open) dialog.showModal();
}

function closeDialog() {
  $("dialog").dataset.purpose = "";
  $("dialog").close();
}

function paragraph(text) {
  return make("p", { textContent: text });
}

function field(text, properties) {
  const input = make("input", { autocomplete: "off", spellcheck: false, ...properties });
  return { input, label: make("label", {}, text, input) };
}

function check(text) {
  const input = make("input", { type: "checkbox" });
  return { input, label: make("label", { className: "check" }, input, make("span", { textContent: text })) };
}

function askForKey(trouble) {
  const key = field("API key", { type: "password", required: true, name: "key" });
  openDialog("key", "This node asks for a key", "Use it", [
    paragraph("It is kept in this tab until the tab is closed. A key with the role read shows everything, " +
      "one with the role admin may also change roles."), key.label,
  ], async () => {
    sessionStorage.setItem(KEY, key.input.value.trim());
    closeDialog();
    state.declined = false;
    state.polls = 0;
    await poll();
  });
  if (trouble) tell(trouble);
}

function tell(text) {
  write($("dialog-error"), text);
  show($("dialog-error"), true);
}

async function change(path, body) {
  const answer = await ask(path, body);
  closeDialog();
  state.polls = 0;
  await poll();
  return answer;
}

function promote() {
  const status = state.status;
  const bound = status.settings.bind_address?.value;
  const address = field("Address where it takes replicas (host:port)", { required: true, name: "bind_address" });
  const force = check("Force: also where data is missing here or another mastership is newer");
  const parts = [paragraph(`${location.host} becomes a master at offset ${count(status.offset)} and takes writes.`)];
  if (status.link) {
    parts.push(paragraph(status.link.connected
      ? "Its master is alive. To move the mastership without losing a write, use “Switch over” on that master " +
        "instead: after a promotion there are two masters, and what the old one still takes will diverge."
      : `Its master does not answer. Operations after offset ${count(status.offset)} that only that master has ` +
        "will be set aside when it comes back."));
  }
  if (!bound) parts.push(address.label);
  openDialog("promote", "Make this node the master?", "Promote", [...parts, force.label], () => change(
    "replication/promote",
    { ...(bound ? {} : { bind_address: address.input.value.trim() }), ...(force.input.checked ? { force: true } : {}) },
  ));
}

function switchOver() {
  const targets = state.status.replicas.filter((row) => row.status !== "Disconnected" && row.status !== "Syncing");
  const choice = make("select", { name: "target" }, make("option", { value: "", textContent: "the one that holds most" }),
    ...targets.map((row) => make("option", {
      value: row.id, textContent: `${row.rest_address || row.address}, offset ${count(row.offset)}`,
    })));
  openDialog("switchover", "Hand the mastership over?", "Switch over", [
    paragraph("Writes are held for a moment until the new master has everything; none is lost. This node and the " +
      "other replicas then follow it."),
    make("label", {}, "New master", choice),
  ], () => change("replication/switchover", choice.value ? { target: choice.value } : {}));
}

function follow() {
  const status = state.status;
  const address = field("Replication address of the master (host:port)", { required: true, name: "master_address",
    value: status.link ? status.link.master_address : "" });
  const force = check("Force: also if that master's history is foreign to the data here, which is then replaced");
  const parts = [paragraph(status.role === "Replica" ? "This node leaves its master and follows another one."
    : `This node stops taking writes and becomes a replica. What it has and that master has not (it is at offset ${
      count(status.offset)}) is set aside.`)];
  openDialog("follow", "Follow a master?", "Follow", [...parts, address.label, force.label], () => change(
    "replication/follow",
    { master_address: address.input.value.trim(), ...(force.input.checked ? { force: true } : {}) },
  ));
}

function abort() {
  openDialog("abort", "Abort the switchover?", "Abort it", [
    paragraph("Writes go on here. It is too late once the promotion was sent."),
  ], () => change("replication/switchover/abort", {}));
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("confirm").disabled = true;
  show($("dialog-error"), false);
  try {
    await confirmed();
  } catch (error) {
    tell(error instanceof Refusal ? error.message : "No answer from this node: what came of it is not known.");
  } finally {
    $("confirm").disabled = false;
  }
});
$("cancel").addEventListener("click", () => $("dialog").close());
$("dialog").addEventListener("close", () => {
  state.declined = state.locked && $("dialog").dataset.purpose === "key";
  $("dialog").dataset.purpose = "";
});
$("promote").addEventListener("click", promote);
$("switchover").addEventListener("click", switchOver);
$("follow").addEventListener("click", follow);
$("abort").addEventListener("click", abort);
$("key").addEventListener("click", () => askForKey(""));
for (const id of ["throughput", "lag"]) {
  const canvas = $(id);
  canvas.addEventListener("pointermove", (event) => {
    pointers.set(id, Math.min(1, Math.max(0, event.offsetX / canvas.clientWidth)));
    if (state.status) drawCharts();
  });
  canvas.addEventListener("pointerleave", () => {
    pointers.delete(id);
    if (state.status) drawCharts();
  });
}
addEventListener("resize", draw);
document.addEventListener("visibilitychange", poll);
setInterval(poll, POLL_MS);
poll();
