// A bundle and a text in, two proofs out: its golden runs replayed here, and its bits per byte.

import { readSafetensors, typedArrayOf } from "./safetensors.js";
import { Bundle, Stream } from "./stream.js";

// Each golden run that a graph takes -> the worst error: max|found - expected| / rms(expected), or
// where the run says what the recipe costs, ||found - expected|| / cost.
export async function replay(ort, bundle, graph, provider) {
  const stream = await Stream.open(ort, bundle, graph, provider);
  const checks = [];
  const runs = bundle.manifest.golden ?? [];
  // a run at a T of the graph's own is preferred: another T may round otherwise, or end otherwise
  const own = runs.filter(({ t }) => graph.allowed_t.includes(t));
  const exact = (bundle.manifest.contract.chunk.tail ?? "exact") === "exact";
  for (const { file, t, steps } of own.length || !exact ? own : runs) {
    const size = graph.allowed_t.includes(t)
      ? t
      : Math.max(...graph.allowed_t.filter((a) => t % a === 0));
    if (!(size > 0)) continue;
    const golden = readSafetensors(await bundle.file(file));
    const { dtype, data: items } = golden[`t${t}/chunk`]; // (steps, B=1, T)
    const found = {};
    stream.reset();
    for (let at = 0; at < steps * t; at += size) {
      const outputs = await stream.step(chunkOf(ort, dtype, items.slice(at, at + size)));
      for (const [name, tensor] of Object.entries(outputs)) {
        (found[`t${t}/out/${name}`] ??= []).push(Float64Array.from(tensor.data, Number));
      }
    }
    for (const [name, tensor] of Object.entries(stream.state)) {
      found[`t${t}/state/${name}`] = [Float64Array.from(await tensor.getData(), Number)];
    }
    const errors = Object.entries(found).map(([name, parts]) => [
      name,
      errorOf(
        joined(parts),
        Float64Array.from(golden[name].data, Number),
        golden[name.replace("/", "/cost/")]?.data[0],
      ),
    ]);
    const [tensor, worst] = errors.reduce((a, b) => (b[1] <= a[1] ? a : b)); // NaN wins
    checks.push({
      graph: graph.file,
      t,
      size,
      worst,
      tensor,
      passed: worst <= graph.golden_tolerance,
    });
  }
  await stream.release();
  if (!checks.length) throw new Error(`${graph.file}: no golden run to prove it`);
  return checks;
}

// Bits per byte of a text read in one pass with the state carried on. (T divides its length.)
export async function score(ort, bundle, graph, provider, text, t) {
  const { dtype, content } = bundle.manifest.contract.chunk;
  if (content.tokenizer !== "bytes") throw new Error("only a model of bytes reads a text here");
  const stream = await Stream.open(ort, bundle, graph, provider);
  const idOf = dtype === "int64" ? BigInt : Number;
  let bits = 0;
  let last = null; // the logits before the next byte
  const began = performance.now();
  for (let at = 0; at < text.length; at += t) {
    const bytes = text.subarray(at, at + t);
    const { logits } = await stream.step(
      chunkOf(ort, dtype, typedArrayOf(dtype).from(bytes, idOf)),
    );
    bytes.forEach((byte, i) => {
      if (last) bits += surprise(last, byte);
      last = logits.data.subarray(i * 256, (i + 1) * 256);
    });
  }
  const seconds = (performance.now() - began) / 1000;
  await stream.release();
  return {
    bytes: text.length,
    bits_per_byte: bits / (text.length - 1),
    bytes_per_second: text.length / seconds,
  };
}

function chunkOf(ort, dtype, ids) {
  return new ort.Tensor(dtype, ids, [1, ids.length]);
}

function surprise(logits, byte) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((total, x) => total + Math.exp(x - top), 0);
  return (Math.log(sum) + top - logits[byte]) / Math.LN2;
}

function joined(parts) {
  const whole = new Float64Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}

function errorOf(found, expected, cost) {
  if (found.length !== expected.length) return Infinity;
  let worst = 0;
  let squares = 0;
  let apart = 0;
  for (let i = 0; i < found.length; i++) {
    const difference = Math.abs(found[i] - expected[i]);
    worst = Math.max(worst, difference);
    squares += expected[i] * expected[i];
    apart += difference * difference;
  }
  if (worst === 0) return 0;
  return cost === undefined
    ? worst / Math.sqrt(squares / found.length)
    : Math.sqrt(apart) / cost;
}
