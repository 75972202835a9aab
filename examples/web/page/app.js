// The page: takes input, feeds two workers, and draws what they tell.

import { Chart } from "./chart.js";
import { sampleLog } from "./sample.js";
import { Tape } from "./tape.js";

const PRECISIONS = ["float32", "int8"];
const SHOWN_BYTES = 3000;
const DRAW_MS = 300;
const LEVELS = [2, 4, 7, 10]; // bits of surprise from which a colour begins

const asked = new URLSearchParams(location.search);
const $ = (id) => document.getElementById(id);
const charts = {
  surprise: new Chart($("surprise"), PRECISIONS, (bits) => `up to ${bits.toFixed(1)}`),
  speed: new Chart($("speed"), PRECISIONS, (speed) => `up to ${kilo(speed)}/s`),
  memory: new Chart($("memory"), PRECISIONS, (bytes) => `up to ${mega(bytes)}`),
};

let model = "log";
let tape;
let columns = [];

const kilo = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
const mega = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// --- one model

class Column {
  constructor(index) {
    this.index = index;
    this.precision = PRECISIONS[index];
    this.place = $(this.precision);
    this.name = index ? `${model}-int8` : model;
    this.noteKey = `dst-web:${this.name}`;
    this.worker = new Worker("worker.js", { type: "module" });
    this.totals = { bits: 0, count: 0, bytes: 0, ms: 0 };
    this.recent = []; // [bits, count] of the last reports
    this.shown = 0;
    this.told = []; // [bytes, bits] that are not drawn yet
    this.top = []; // its most surprising lines
    this.facts = {};
    this.decoder = new TextDecoder();
    this.opened = new Promise((resolve, reject) => {
      this.onopened = resolve;
      this.onfailed = reject;
    });
    this.worker.onmessage = ({ data }) => this[data.kind](data);
    this.worker.onerror = (event) => this.error({ code: "worker", message: event.message });
    this.worker.postMessage({ kind: "open", model: this.name });
  }

  // what the worker tells

  /** The worker stands at `at`; what was noted belongs to it only if it was noted there. */
  openedAt({ at }) {
    const note = JSON.parse(localStorage.getItem(this.noteKey) ?? "null");
    if (note?.at !== at) return;
    this.totals = note.totals;
    Object.values(charts).forEach((chart, i) => {
      const points = chart.points;
      points[this.index] = note.points[i];
      chart.points = points;
    });
  }

  ready(told) {
    this.at = told.at;
    this.sent = told.at;
    this.facts.State = `${mega(told.stateBytes)}, fixed`;
    this.facts.Opened = `${Math.round(told.openedMs)} ms`;
    this.top = told.top;
    this.openedAt(told);
    this.showFacts();
    this.showTop();
    this.onopened();
  }

  read({ at, bits, bytes, ms, top, wasmBytes }) {
    this.at = at;
    let [sum, count] = [0, 0];
    for (const value of bits) {
      if (Number.isNaN(value)) continue;
      sum += value;
      count++;
    }
    const { totals } = this;
    totals.bits += sum;
    totals.count += count;
    totals.bytes += bytes.length;
    totals.ms += ms;
    this.recent.push([sum, count]);
    if (this.recent.length > 20) this.recent.shift();
    if (count) {
      charts.surprise.add(this.index, at, sum / count);
      if (ms > 20) charts.speed.add(this.index, at, bytes.length / (ms / 1000));
    }
    charts.memory.add(this.index, at, wasmBytes);
    this.facts.Memory = mega(wasmBytes);
    this.told.push([bytes, bits]);
    this.top = top;
    progress();
  }

  saved({ at }) {
    const points = Object.values(charts).map((chart) => chart.points[this.index]);
    localStorage.setItem(this.noteKey, JSON.stringify({ at, points, totals: this.totals }));
  }

  idle({ at }) {
    this.at = at;
    this.draw();
    this.sent = Math.min(this.sent, tape.end);
    if (at < this.sent) this.sent = at; // it was paused: what it did not read is sent again
    this.busy = false;
    if (columns.some((column) => column.busy)) return;
    finished();
  }

  error({ code, message }) {
    this.failed = true;
    this.onfailed(new Error(message));
    say(`${this.precision} stopped: ${message} (${code})`, true);
    document.body.dataset.error = code;
  }

  // what it is told

  /** Send everything on the tape that was not sent. */
  feed() {
    if (this.failed || this.sent >= tape.end) return;
    const from = Math.max(this.sent, tape.start) - tape.start;
    this.sent = tape.end;
    this.busy = true;
    this.worker.postMessage({ kind: "read", bytes: tape.bytes.slice(from), last: true });
  }

  /** Stop reading, and save. */
  pause() {
    this.worker.postMessage({ kind: "pause" });
  }

  /** Forget everything. */
  reset() {
    localStorage.removeItem(this.noteKey);
    return new Promise((resolve) => {
      this.reset_done = resolve;
      this.worker.postMessage({ kind: "reset" });
    });
  }

  forgotten() {
    Object.assign(this, { at: 0, sent: 0, busy: false, recent: [], shown: 0, told: [], top: [] });
    this.totals = { bits: 0, count: 0, bytes: 0, ms: 0 };
    this.place.querySelector("pre").replaceChildren();
    this.showFacts();
    this.showTop();
    this.reset_done();
  }

  close() {
    this.worker.terminate();
  }

  // what it shows

  /** Draw all that was told; the style sheet keeps the text at its end. */
  draw() {
    const pre = this.place.querySelector("pre");
    for (const [bytes, bits] of this.told.splice(0)) this.show(pre, bytes, bits);
    this.showFacts();
    this.showTop();
  }

  show(pre, bytes, bits) {
    let from = Math.max(0, bytes.length - SHOWN_BYTES);
    while (from < bytes.length) {
      const level = levelOf(bits[from]);
      let end = from + 1;
      while (end < bytes.length && levelOf(bits[end]) === level) end++;
      const text = this.decoder.decode(bytes.subarray(from, end), { stream: true });
      if (text) {
        const span = document.createElement("span");
        if (level) span.className = `s${level}`;
        span.textContent = text;
        pre.append(span);
        this.shown += text.length;
      }
      from = end;
    }
    while (this.shown > SHOWN_BYTES && pre.firstChild) {
      this.shown -= pre.firstChild.textContent.length;
      pre.firstChild.remove();
    }
  }

  /** The list of lines; that of the first model alone, since both are nearly the same. */
  showTop() {
    if (this.index) return;
    const drawn = this.top.map(({ line, size }) => `${line}:${size}`).join();
    if (drawn === this.topDrawn) return;
    this.topDrawn = drawn;
    const rows = this.top.map(({ line, bits, size, text }) => {
      const [row, where, code] = ["li", "span", "code"].map((name) => document.createElement(name));
      where.textContent = `Line ${line.toLocaleString("en")}: ${(bits / size).toFixed(2)} bits per byte, ${bits.toFixed(0)} bits`;
      code.textContent = text;
      row.append(where, code);
      return row;
    });
    $("odd").querySelector("ol").replaceChildren(...rows);
    $("odd").hidden = !rows.length;
  }

  showFacts() {
    const { bits, bytes, count, ms } = this.totals;
    const lately = this.recent.reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
    const facts = {
      Read: `${(this.at ?? 0).toLocaleString("en")} B`,
      "Bits per byte": count ? (bits / count).toFixed(3) : "–",
      "Bits, lately": lately[1] ? (lately[0] / lately[1]).toFixed(3) : "–",
      Speed: ms ? `${kilo(bytes / (ms / 1000))}/s` : "–",
      ...this.facts,
    };
    const rows = Object.entries(facts).map(([name, value]) => {
      const row = document.createElement("div");
      const term = document.createElement("dt");
      const held = document.createElement("dd");
      term.textContent = name;
      held.textContent = value;
      row.append(term, held);
      return row;
    });
    this.place.querySelector("dl").replaceChildren(...rows);
  }
}

const levelOf = (bits) => LEVELS.filter((level) => bits >= level).length;

// --- all of it

let drawing = false;
function progress() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    draw();
  }, DRAW_MS);
}

function draw() {
  const size = tape.end - tape.start;
  const least = Math.min(...columns.map((column) => column.at));
  $("progress").value = size ? Math.max(0, least - tape.start) / size : 0;
  for (const chart of Object.values(charts)) chart.draw();
  for (const column of columns) if (column.told.length) column.draw();
}

function reading() {
  say("Reading …");
  document.body.dataset.state = "reading";
  $("go").textContent = "Pause";
  $("go").disabled = false;
}

function finished() {
  const left = tape.end - Math.min(...columns.map((column) => column.at));
  document.body.dataset.state = left > 0 ? "paused" : "done";
  $("go").textContent = "Go on";
  $("go").disabled = left <= 0;
  say(left > 0 ? `Paused; ${left.toLocaleString("en")} bytes wait.` : "Read to the end, and saved. Give more: the models remember.");
  draw();
}

/** Read bytes, or what a promise will give. */
async function take(given) {
  const before = document.body.dataset.state;
  document.body.dataset.state = "taking"; // at once: the end of what was read before is no end of this
  await ready;
  const bytes = await Promise.resolve(given).catch((error) => say(error.message, true));
  if (!bytes?.length || columns.some(({ at }) => at === undefined)) {
    document.body.dataset.state = before; // nothing came, or one model could not be opened
    return;
  }
  await tape.append(bytes, Math.min(...columns.map((column) => column.at)));
  go();
}

function go() {
  reading();
  for (const column of columns) column.feed();
}

function toggle() {
  if (document.body.dataset.state !== "reading") return go();
  for (const column of columns) column.pause();
}

async function forget() {
  await ready;
  await Promise.all(columns.map((column) => column.reset()));
  await tape.clear();
  for (const chart of Object.values(charts)) chart.clear();
  finished();
  say("Forgotten. The models start anew.");
}

async function open() {
  delete document.body.dataset.error;
  document.body.dataset.state = "loading";
  for (const column of columns) column.close();
  for (const chart of Object.values(charts)) chart.clear();
  for (const name of PRECISIONS) $(name).querySelector("pre").replaceChildren();
  say("Loading the models …");
  tape = await Tape.open(model);
  columns = PRECISIONS.map((_, index) => new Column(index));
  await Promise.all(columns.map((column) => column.opened));
  const furthest = Math.max(...columns.map((column) => column.at));
  if (furthest > tape.end) await tape.skipTo(furthest); // its input was too long to be kept
  finished();
  if (tape.end > 0 && $("go").disabled) say("The models remember what they have read. Give them more.");
  else if (tape.end === 0) say("Ready. Drop a file, or read the sample.");
}

// --- events

const bytesOf = async (file) => new Uint8Array(await file.arrayBuffer());

$("file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (file) await take(bytesOf(file));
  target.value = "";
});
$("sample").addEventListener("click", () => take(new TextEncoder().encode(sampleLog())));
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  take(new TextEncoder().encode(`${$("line").value}\n`));
  $("line").value = "";
});
$("go").addEventListener("click", toggle);
$("forget").addEventListener("click", forget);
$("model").addEventListener("change", ({ target }) => {
  model = target.value;
  ready = open().catch((error) => say(error.message, true));
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", () => document.body.classList.remove("over"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const file = event.dataTransfer.files[0];
  await take(file ? bytesOf(file) : new TextEncoder().encode(event.dataTransfer.getData("text")));
});

navigator.serviceWorker?.register("sw.js");
navigator.storage?.persist?.();

let ready;
// Two tabs would write over each other's state: the second one waits.
navigator.locks.request("dst-web", { ifAvailable: true }, (lock) => {
  if (!lock) {
    say("This page is open in another tab. Close that one, then load this one again.", true);
    return undefined;
  }
  if (asked.has("model")) $("model").value = asked.get("model");
  model = $("model").value;
  ready = open().catch((error) => say(error.message, true));
  return new Promise(() => {}); // held until the page is closed
});
