// What the suite does not ask: providers, short forms of items, overlapping calls.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { test } from "node:test";
import * as ort from "onnxruntime-node";
import { type Dtype, itemSize, valuesOf } from "../src/base/dtype.js";
import { hashWasm } from "../src/base/hashing.js";
import { constantMark, respelled } from "../src/bundle/constants.js";
import {
  DstError,
  fetchSource,
  memorySource,
  readTensors,
  Session,
  type SessionOptions,
  Stream,
  type Tensor,
  verify,
} from "../src/index.js";
import { FolderStore, folder } from "../src/node.js";
import { bundleFiles } from "./conformance.js";
import { readSuite } from "./node.js";
import { open, ROOT, refusedBy, SUITE, work } from "./shared.js";

const SHIPPED = path.join(ROOT, "src/dst/shipped");
const ramp = (count: number) => Float32Array.from({ length: count }, (_, i) => i / 8);

test("a provider that is not here is an error, and nothing else runs", async () => {
  for (const provider of ["cuda", "nonsense"]) {
    const session = await open("level", { provider });
    const stream = session.stream();
    await assert.rejects(stream.advance(ramp(16)), refusedBy("provider"));
    assert.equal(stream.itemsConsumed, 0n);
  }
});

test("options out of their range are refused", async () => {
  await assert.rejects(open("level", { threads: 0 }), refusedBy("argument"));
  await assert.rejects(open("level", { chunkSizes: [5] }), refusedBy("chunk-size"));
  await assert.rejects(open("level", { lowering: "fused" }), refusedBy("lowering"));
});

test("a graph for a newer ONNX Runtime runs only where that was asked for", async () => {
  const source = folder(path.join(SHIPPED, "feed"));
  await assert.rejects(Session.open(ort, source), refusedBy("onnxruntime-too-old"));
  const checks = await verify(ort, source, { olderRuntime: true });
  assert.equal(checks.length, 2);
  assert.ok(checks.every(({ passed, worst }) => passed && worst > 0));
});

test("golden runs notice another answer", async () => {
  const files = new Map<string, Uint8Array>();
  for (const name of await readdir(path.join(SHIPPED, "log"))) {
    files.set(name, new Uint8Array(await readFile(path.join(SHIPPED, "log", name))));
  }
  const options: SessionOptions = { graph: "step_t64.onnx", verify: "size" };
  const good = await verify(ort, memorySource(files), options);
  assert.deepEqual([good.length, good[0]!.passed], [1, true]);
  const expected = readTensors(files.get("golden.safetensors")!).tensors.get("t64/out/logits")!;
  expected.data[0] = Number(expected.data[0]) + 0.1; // in place, in the file's own bytes
  const bad = await verify(ort, memorySource(files), options);
  assert.deepEqual([bad.length, bad[0]!.passed], [1, false]);
});

test("items in short forms", async () => {
  const level = (await open("level")).stream();
  await level.advance(ramp(10));
  assert.equal(level.pending + Number(level.itemsConsumed), 5);
  await assert.rejects(level.advance(ramp(15)), refusedBy("chunk-shape"));
  await assert.rejects(level.advance(new Float64Array(16)), refusedBy("chunk-type"));
  await level.advance([1, 2, 3, 4]);
  const tokens = (await open("tokens")).stream();
  await tokens.advance([1, 2, 3, 15]);
  await assert.rejects(tokens.advance([16]), refusedBy("token-out-of-range"));
  await assert.rejects(tokens.advance([1.5]), refusedBy("token-out-of-range"));
  const bytes = (await open("refuse")).stream();
  await bytes.advance(new Uint8Array(4));
  assert.equal(bytes.itemsConsumed, 4n);
});

test("what is no whole number of items is refused in the words of the caller", async () => {
  const level = (await open("level")).stream(); // items of 2 values
  const tokens = (await open("tokens")).stream();
  const item = (shape: number[], data: unknown) => ({ dtype: "float32", shape, data }) as Tensor;
  const cases: [Stream, unknown, string, string][] = [
    [level, new Float32Array(13), "chunk-shape", "13 values are no whole number of items of 2 "],
    [level, [1, 2, 3], "chunk-shape", "3 values are no whole number of items of 2 values"],
    [level, item([2, 2], new Float32Array(6)), "chunk-shape", "expected 4 values, 6 came"],
    [level, item([2, 3], new Float32Array(6)), "chunk-shape", "shape [2, 3], expected [n, 2]"],
    [level, item([2, 2], new Float64Array(4)), "chunk-type", "float32, and float64 for its data"],
    [
      level,
      [
        [1, 2],
        [3, 4],
      ],
      "chunk-type",
      "value 0 of the list is a list, expected a number",
    ],
    [tokens, [[1, 2]], "chunk-type", "in one flat list"],
    [tokens, [1n], "chunk-type", "value 0 of the list is bigint"],
    [tokens, new BigUint64Array(1), "chunk-type", "items has dtype uint64"],
    [level, "1, 2", "chunk-type", "items are string, expected a tensor { dtype, shape, data }"],
    [level, undefined, "chunk-type", "items are undefined"],
    [level, new DataView(new ArrayBuffer(8)), "chunk-type", "items are DataView"],
    [level, new ort.Tensor("float32", ramp(4), [2, 2]), "chunk-type", "items are Tensor"],
  ];
  for (const [stream, given, code, words] of cases) {
    await assert.rejects(stream.advance(given as Tensor), (error: unknown) => {
      assert.ok(error instanceof DstError, String(error));
      assert.equal(error.code, code);
      assert.ok(error.message.includes(words), error.message);
      return true;
    });
    assert.equal(Number(stream.itemsConsumed) + stream.pending, 0);
  }
  await assert.rejects(level.step(ramp(8) as unknown as Tensor), refusedBy("chunk-type"));
});

test("a call that is stopped changes nothing", async () => {
  const stream = (await open("level")).stream();
  await stream.advance(ramp(10));
  const before = await stream.toBytes();
  const signal = AbortSignal.abort();
  await assert.rejects(stream.advance(ramp(64), { signal }), refusedBy("cancelled"));
  await assert.rejects(stream.advance(ramp(64), { deadlineMs: 0 }), refusedBy("deadline"));
  await assert.rejects(
    stream.advance(ramp(64), { outputs: ["none"] }),
    refusedBy("no-such-output"),
  );
  assert.deepEqual(await stream.toBytes(), before);
});

test("calls that overlap are done in their order", async () => {
  const session = await open("level");
  const [one, other] = [session.stream(), session.stream()];
  const items = ramp(200);
  const calls = Array.from({ length: 20 }, (_, i) => one.advance(items.slice(i * 10, i * 10 + 10)));
  const saved = one.toBytes();
  await Promise.all([...calls, other.advance(items)]);
  assert.deepEqual(await saved, await other.toBytes());
});

test("a long input chunk by chunk", async () => {
  const session = await open("level");
  const [one, other] = [session.stream(), session.stream()];
  await one.advance(ramp(2));
  let items = 0;
  for await (const outputs of one.iterAdvance(ramp(64))) items += outputs["head/y"]!.shape[1]!;
  await other.advance(Float32Array.from([...ramp(2), ...ramp(64)]));
  assert.equal(items, 32);
  assert.deepEqual(await one.toBytes(), await other.toBytes());
});

test("a snapshot is not changed by what follows", async () => {
  const stream = (await open("level")).stream();
  await stream.advance(ramp(22));
  const [snapshot, before] = [await stream.snapshot(), await stream.toBytes()];
  (await stream.state())["cell/0.c"]!.data.fill(9 as never);
  const fork = await stream.fork();
  await stream.advance(ramp(64));
  await stream.restore(snapshot);
  assert.deepEqual(await stream.toBytes(), before);
  assert.deepEqual(await fork.toBytes(), before);
});

test("a file of tensors may describe them by further fields, as it may in Python", () => {
  const text = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"unit":"V"}}';
  const bytes = new Uint8Array(9 + text.length);
  bytes[0] = text.length;
  bytes.set(new TextEncoder().encode(text), 8);
  bytes[8 + text.length] = 7;
  assert.deepEqual([...readTensors(bytes).tensors.get("a")!.data], [7]);
});

test("a saved state does not follow the caller's bytes", async () => {
  const session = await open("level");
  const stream = session.stream();
  await stream.advance(ramp(22));
  const bytes = await stream.toBytes();
  const mine = bytes.slice();
  const later = await Stream.fromBytes(session, mine);
  mine.fill(0);
  assert.deepEqual(await later.toBytes(), bytes);
});

test("arguments that TypeScript would refuse are refused by their code", async () => {
  const session = await open("tokens");
  const stream = session.stream();
  const store = new FolderStore(work);
  // biome-ignore lint/suspicious/noExplicitAny: what JavaScript lets a caller give
  const bad = (value: unknown) => value as any;
  const ids = (data: unknown) => bad({ dtype: "int64", shape: [1, 4], data });
  const wrong: [string, () => unknown][] = [
    ...[
      "verify",
      "lowering",
      "provider",
      "strict",
      "graph",
      "chunkSizes",
      "hashing",
      "threads",
    ].map((name): [string, () => unknown] => [
      "argument",
      () => open("level", bad({ [name]: null })),
    ]),
    ["argument", () => open("level", bad({ verify: "none" }))],
    ["argument", () => open("level", { provider: "" })],
    ["argument", () => open("level", bad(null))],
    ["argument", () => Session.open(bad({}), folder(work))],
    ["argument", () => Session.open(ort, bad(null))],
    ["argument", async () => session.stream(bad(null))],
    ["argument", async () => session.stream(bad({ inputs: null }))],
    ["chunk-type", () => stream.advance(bad(null))],
    ["chunk-type", () => stream.advance(bad({}))],
    ["chunk-type", () => stream.advance(bad("abc"))],
    ["argument", () => stream.advance([1], bad(null))],
    ["argument", () => stream.advance([1], bad({ deadlineMs: "5" }))],
    ["argument", () => stream.advance([1], bad({ last: 1 }))],
    ["argument", () => stream.advance([1], bad({ outputs: "logits" }))],
    ["argument", () => stream.flush(bad(null))],
    ["chunk-type", () => stream.iterAdvance(bad(null)).next()],
    ["chunk-type", () => stream.step(bad(null))],
    ["chunk-type", () => stream.step(ids(new Float64Array(4)))],
    ["argument", () => stream.restore(bad({}))],
    ["argument", () => stream.restore(bad(null))],
    ["argument", () => stream.save(bad({}), "a")],
    ["argument", () => stream.save(store, bad(5))],
    ["argument", () => store.write("a", bad("text"))],
    ["argument", async () => new FolderStore(bad(null))],
    ["argument", async () => folder(bad(null))],
    ["argument", () => Stream.fromBytes(session, bad("text"))],
    ["argument", () => Stream.fromBytes(bad({}), new Uint8Array(9))],
    ["argument", () => Stream.load(session, bad(null), "a")],
    ["argument", () => Stream.load(session, store, bad(null))],
    ["argument", () => stream.generate([1], 1, bad(null)).next()],
    ["chunk-type", () => stream.generate(bad(null), 1).next()],
    ["generate", () => stream.generate([1], 1, bad({ stop: 5 })).next()],
    ["generate", () => stream.generate([1], 1, bad({ seed: "5" })).next()],
    ["generate", () => stream.generate([1], 1, bad({ temperature: "1" })).next()],
  ];
  for (const [code, call] of wrong) {
    await assert.rejects(async () => call(), refusedBy(code), String(call));
  }
  assert.equal(stream.itemsConsumed, 0n);
  assert.equal(stream.pending, 0);
});

test("floats of marks are spelled as exact fractions spell them", async () => {
  const table = JSON.parse(
    await readFile(path.join(ROOT, "tests/data/numbers.json"), "utf8"),
  ) as Record<"float32" | "float64" | "respelled", [string, string][]> & { float16_sha256: string };
  const mark = (dtype: Dtype, bits: bigint) => {
    const bytes = new Uint8Array(BigUint64Array.of(bits).buffer).slice(0, itemSize(dtype));
    return constantMark({ input: "c", dtype, shape: [], values: valuesOf(dtype, bytes) }, hashWasm);
  };
  for (const dtype of ["float32", "float64"] as const) {
    for (const [bits, text] of table[dtype]) {
      assert.equal(await mark(dtype, BigInt(`0x${bits}`)), `${dtype} [] ${text}`);
    }
  }
  let lines = "";
  for (let bits = 0; bits < 2 ** 16; bits++) {
    if ((bits & 0x7c00) !== 0x7c00) lines += `${await mark("float16", BigInt(bits))}\n`;
  }
  const found = await hashWasm.sha256([new TextEncoder().encode(lines)]);
  assert.equal(found, table.float16_sha256);
  for (const [told, now] of table.respelled) assert.equal(respelled(told), now);
});

test("a fetched bundle is checked when its files are read", async () => {
  const files = bundleFiles(await readSuite(SUITE), "level");
  const server = createServer((request, response) => {
    const bytes = files.get(request.url!.slice("/level/".length));
    response.writeHead(bytes ? 200 : 404).end(bytes);
  });
  await new Promise<void>((ready) => {
    server.listen(0, "127.0.0.1", ready);
  });
  const { port } = server.address() as AddressInfo;
  const address = `http://127.0.0.1:${port}/level`;
  const stream = (await Session.open(ort, fetchSource(address))).stream();
  await stream.advance(ramp(16));
  files.set(
    "step.onnx",
    files.get("step.onnx")!.map((byte, i) => (i === 33 ? byte ^ 4 : byte)),
  );
  const altered = await Session.open(ort, fetchSource(address));
  await assert.rejects(altered.loadGraphs(), refusedBy("file-hash"));
  const nowhere = Session.open(ort, fetchSource(`${address}/none`));
  await assert.rejects(nowhere, refusedBy("bundle-not-found"));
  server.close();
  const gone = Session.open(ort, fetchSource("http://127.0.0.1:1"));
  await assert.rejects(gone, refusedBy("bundle-unreadable"));
});
