// One model in a worker: reads bytes, tells how surprised it is, and saves its state.
//
// In:  { kind: "open", model, provider } | { kind: "read", bytes, last } | { kind: "pause" }
//      | { kind: "reset" }
// Out: { kind: "ready" | "read" | "saved" | "idle" | "forgotten" | "error", … }

import { OddLines } from "./lines.js";
import {
  fetchSource,
  IndexedDbStore,
  Session,
  Stream,
  surpriseBits,
} from "./lib/dst-edge/index.js";

const STEPS = 8; // chunks for each call
const TELL_MS = 250;
const SAVE_MS = 2000;

// The memory of WebAssembly is made inside of ONNX Runtime; remember it, to tell its size.
const memories = [];
const { instantiate } = WebAssembly;
WebAssembly.instantiate = async (...args) => {
  const made = await instantiate(...args);
  const { exports } = made.instance ?? made;
  memories.push(...Object.values(exports).filter((held) => held instanceof WebAssembly.Memory));
  return made;
};
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(...args) {
    super(...args);
    memories.push(this);
  }
};

let session;
let stream;
let store;
let name;
let todo = []; // parts that wait to be read
let paused = false;
let running = Promise.resolve();
let unscored = new Uint8Array(0); // bytes that were given and not answered for
let row = null; // the logits before the next byte
let lines = new OddLines();

self.onmessage = ({ data }) => {
  const work = { open, read, pause, reset }[data.kind];
  Promise.resolve(work(data)).catch(tell);
};

function tell(error) {
  self.postMessage({ kind: "error", code: error.code ?? "unknown", message: String(error.message ?? error) });
}

async function open({ model, provider = "wasm" }) {
  const ort = await import(`./lib/ort/ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL("./lib/ort/", import.meta.url).href;
  ort.env.wasm.numThreads = 1;
  name = model;
  const began = performance.now();
  session = await Session.open(ort, fetchSource(`./models/${model}`), { provider });
  await session.loadGraphs();
  const openedMs = performance.now() - began;
  store = await IndexedDbStore.open("dst-web");
  const kept = (await store.names()).includes(name);
  stream = kept ? await Stream.load(session, store, name) : session.stream();
  // What waits was given before, and its surprise cannot be told without it.
  unscored = new Uint8Array(stream.pending);
  row = null;
  lines = new OddLines();
  if (kept) await loadNotes();
  const { manifest } = session.bundle;
  self.postMessage({
    kind: "ready",
    at: position(),
    openedMs,
    precision: manifest.precision,
    bundleId: manifest.bundleId,
    runtime: ort.env.versions.web,
    stateBytes: (await stream.toBytes()).length,
    top: lines.top(true),
  });
}

const position = () => Number(stream.itemsConsumed) + stream.pending;

/** Bytes to read behind those that wait; `last` ends the input for now. */
function read({ bytes, last }) {
  todo.push({ bytes, last });
  paused = false;
  running = running.then(pump).catch(tell);
}

async function pause() {
  paused = true;
  todo = [];
  await running;
  await save();
  self.postMessage({ kind: "idle", at: position() });
}

async function reset() {
  paused = true;
  todo = [];
  await running;
  await stream.reset();
  await store.delete(name);
  await store.delete(notes());
  unscored = new Uint8Array(0);
  row = null;
  lines = new OddLines();
  self.postMessage({ kind: "forgotten" });
}

async function pump() {
  const { nominalT } = session.contract.chunk;
  let report = newReport();
  let savedAt = performance.now();
  while (todo.length && !paused) {
    const { bytes, last } = todo[0];
    for (let at = 0; at < bytes.length && !paused; ) {
      const began = performance.now();
      const part = bytes.subarray(at, at + nominalT * STEPS);
      at += part.length;
      add(report, part, await stream.advance(part));
      report.ms += performance.now() - began;
      if (performance.now() - report.began > TELL_MS) report = await send(report);
      if (performance.now() - savedAt > SAVE_MS) {
        report = await send(report); // what is told then belongs to the state that is saved
        await save();
        savedAt = performance.now();
      }
    }
    if (paused) break;
    todo.shift();
    if (last && !todo.length) add(report, new Uint8Array(0), await stream.flush());
  }
  await send(report, true);
  if (!paused) {
    await save();
    self.postMessage({ kind: "idle", at: position() });
  }
}

const newReport = () => ({ began: performance.now(), ms: 0, bytes: [], bits: [] });

/** Score what was answered for: row i of the logits predicts byte i + 1. */
function add(report, part, { logits }) {
  const count = logits.shape[1];
  unscored = joined(unscored, part);
  if (count === 0) return;
  const answered = unscored.slice(0, count);
  unscored = unscored.slice(count);
  const { data } = logits;
  const width = data.length / count;
  const before = new Float32Array(data.length);
  before.set(row ?? data.subarray(0, width));
  before.set(data.subarray(0, data.length - width), width);
  const bits = surpriseBits({ dtype: "float32", shape: [count, width], data: before }, answered);
  if (!row) bits[0] = Number.NaN; // nothing has predicted it
  row = data.slice(data.length - width);
  lines.add(answered, bits);
  report.bytes.push(answered);
  report.bits.push(bits);
}

function joined(first, second) {
  const all = new Uint8Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}

async function send({ ms, bytes, bits }, ended = false) {
  const size = bytes.reduce((sum, part) => sum + part.length, 0);
  const text = new Uint8Array(size);
  const scores = new Float32Array(size);
  let at = 0;
  bytes.forEach((part, i) => {
    text.set(part, at);
    scores.set(bits[i], at);
    at += part.length;
  });
  self.postMessage({
    kind: "read",
    at: position(),
    bytes: text,
    bits: scores,
    ms,
    top: lines.top(ended),
    wasmBytes: memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0),
  });
  await new Promise((go) => setTimeout(go)); // let messages in, such as a pause
  return newReport();
}

// Beside a state lies what was noted of the stream at its position. It is written first, and the store
// keeps the notes before it: whatever stops this between the two, those of the state are there.
const notes = () => `${name}.notes`;

async function saveNotes(at) {
  const held = { at, row: row && [...row], unscored: [...unscored], lines: lines.held() };
  await store.write(notes(), new TextEncoder().encode(JSON.stringify(held)));
}

async function loadNotes() {
  for (const read of [() => store.read(notes()), () => store.readPrevious(notes())]) {
    const held = await read().then((bytes) => JSON.parse(new TextDecoder().decode(bytes)), () => undefined);
    if (held?.at !== position()) continue;
    row = held.row && Float32Array.from(held.row);
    unscored = Uint8Array.from(held.unscored);
    lines = OddLines.from(held.lines);
    return;
  }
}

async function save() {
  const at = position();
  await saveNotes(at);
  await stream.save(store, name);
  self.postMessage({ kind: "saved", at });
}
