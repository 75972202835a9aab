// What a stream costs beside a bare loop over the same graph, in CPU time, and whether the heap is flat.
//
//   node --expose-gc build/tests/speed.js BUNDLE TEXT [BYTES] [web|node]
//
// Rounds of both take turns. `scored` also tells the surprise of each byte, as the page of examples/web
// does. CPU time, since other programs of a busy machine do not count in it.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { type Ort, Session, type SessionOptions, surpriseBits } from "../src/index.js";
import { folder } from "../src/node.js";

const [bundle, text, size = "1000000", which = "web"] = process.argv.slice(2) as string[];
const ROUNDS = 5;

const ort = (await import(
  which === "web" ? "../../node_modules/onnxruntime-web/dist/ort.wasm.min.mjs" : "onnxruntime-node"
)) as Ort;
if (which === "web") ort.env.wasm.numThreads = 1;
const bytes = new Uint8Array(await readFile(text!)).subarray(0, Math.floor(Number(size) / ROUNDS));
const { path: _, ...source } = folder(bundle!); // onnxruntime-web takes bytes, not paths
const options: SessionOptions = { provider: which === "web" ? "wasm" : "cpu" };
const session = await Session.open(ort, which === "web" ? source : folder(bundle!), options);
const { chunk, state } = session.contract;
const t = chunk.nominalT;
const graph = await session.sessionFor(t);
const { answers, file } = session.graphFor(t);

type Feeds = Record<string, InstanceType<Ort["Tensor"]>>;

async function bare(): Promise<void> {
  const feeds: Feeds = {};
  if (answers) {
    const places = BigInt64Array.from({ length: t }, (_, i) => BigInt(i));
    feeds[answers] = new ort.Tensor("int64", places, [t]);
  }
  state.forEach(({ input, dtype }, i) => {
    const { data, shape } = session.initial[i]!;
    feeds[input] = new ort.Tensor(dtype, data as never, shape);
  });
  for (let at = 0; at + t <= bytes.length; at += t) {
    const ids = BigInt64Array.from(bytes.subarray(at, at + t) as unknown as number[], BigInt);
    feeds[chunk.input] = new ort.Tensor("int64", ids, [1, t]);
    const found = await graph.run(feeds);
    for (const { input, output } of state) feeds[input] = found[output]!;
  }
}

async function streamed(score: boolean): Promise<void> {
  const stream = session.stream();
  for (let at = 0; at + t <= bytes.length; at += t * 8) {
    const part = bytes.subarray(at, at + t * 8);
    const { logits } = await stream.advance(part);
    if (score) surpriseBits(logits!, part.subarray(1));
  }
}

const kinds = { bare, stream: () => streamed(false), scored: () => streamed(true) };
const speeds: Record<string, number[]> = { bare: [], stream: [], scored: [] };
const heap: number[] = [];
for (const work of Object.values(kinds)) await work(); // warm up
for (let round = 0; round < ROUNDS; round++) {
  for (const [name, work] of Object.entries(kinds)) {
    const before = process.cpuUsage();
    await work();
    const { system, user } = process.cpuUsage(before);
    speeds[name]!.push(bytes.length / ((user + system) / 1e6));
  }
  gc!();
  const { arrayBuffers, external, heapUsed } = process.memoryUsage();
  heap.push((heapUsed + external + arrayBuffers) / 2 ** 20);
}
const median = (values: number[]) => values.toSorted((a, b) => a - b)[ROUNDS >> 1]!;
const rate = (name: string) => Math.round(median(speeds[name]!));
console.log(
  JSON.stringify({
    graph: `${path.basename(bundle!)}/${file}`,
    runtime: `onnxruntime-${which} ${ort.env.versions.web ?? ort.env.versions.node}`,
    bytesPerRound: bytes.length,
    bytesPerCpuSecond: { bare: rate("bare"), stream: rate("stream"), scored: rate("scored") },
    ofBare: {
      stream: +(rate("stream") / rate("bare")).toFixed(3),
      scored: +(rate("scored") / rate("bare")).toFixed(3),
    },
    heapMiB: heap.map((size) => +size.toFixed(2)),
  }),
);
