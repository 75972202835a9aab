// A worker for drive.mjs: a bare loop over onnxruntime-web, with the graph that the page's session
// takes and the bytes that the page reads. `bare.js?model=log`, then a message with the bytes.

import { fetchSource, Session } from "./lib/dst-edge/index.js";

const WARM_UP = 20; // steps

const at = (path) => new URL(path, import.meta.url).href;
const model = new URL(import.meta.url).searchParams.get("model");

self.onmessage = async ({ data: bytes }) => {
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
  const steps = Math.floor(bytes.length / t);
  let began = 0;
  for (let step = 0; step < steps; step++) {
    if (step === WARM_UP) began = performance.now();
    const ids = BigInt64Array.from(bytes.subarray(step * t, (step + 1) * t), BigInt);
    feeds[chunk.input] = new ort.Tensor("int64", ids, [1, t]);
    const found = await graph.run(feeds);
    for (const { input, output } of state) feeds[input] = found[output];
  }
  const seconds = (performance.now() - began) / 1000;
  self.postMessage({ file, t, bytesPerSecond: ((steps - WARM_UP) * t) / seconds });
};
