// A worker for drive.mjs: a bare loop over onnxruntime-web, with the graph that the page's session
// takes. In: { model } once, then { bytes }. Out: { file, t }, then { done }; or { error }.

import { fetchSource, Session } from "./lib/dst-edge/index.js";

const at = (path) => new URL(path, import.meta.url).href;
let opened;

self.onmessage = async ({ data }) => {
  try {
    self.postMessage(data.model ? await open(data.model) : await read(data.bytes));
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
};

async function open(model) {
  const ort = await import("./lib/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = at("./lib/ort/");
  ort.env.wasm.numThreads = 1;
  const session = await Session.open(ort, fetchSource(at(`./models/${model}`)));
  const { chunk, state } = session.contract;
  const t = chunk.nominalT;
  const graph = await session.sessionFor(t);
  const { answers, file } = session.graphFor(t);
  const feeds = {};
  if (answers) {
    const places = BigInt64Array.from({ length: t }, (_, i) => BigInt(i));
    feeds[answers] = new ort.Tensor("int64", places, [t]);
  }
  state.forEach(({ input, dtype }, i) => {
    const { data, shape } = session.initial[i];
    feeds[input] = new ort.Tensor(dtype, data, shape);
  });
  opened = { chunk, feeds, graph, ort, state, t };
  return { file, t };
}

async function read(bytes) {
  const { chunk, feeds, graph, ort, state, t } = opened;
  for (let from = 0; from + t <= bytes.length; from += t) {
    const ids = BigInt64Array.from(bytes.subarray(from, from + t), BigInt);
    feeds[chunk.input] = new ort.Tensor("int64", ids, [1, t]);
    const found = await graph.run(feeds);
    for (const { input, output } of state) feeds[input] = found[output];
  }
  return { done: bytes.length };
}
