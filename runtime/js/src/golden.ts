// Replay the golden runs of a bundle, to check that it answers here as it did when it was made.

import { numberAt, type Tensor, type TypedArray } from "./base/dtype.js";
import { fail } from "./base/errors.js";
import { product, sameShape, sized } from "./base/shapes.js";
import type { Golden, Graph, Manifest } from "./bundle/manifest.js";
import type { Source } from "./bundle/source.js";
import type { Ort } from "./execution/ort.js";
import { Session, type SessionOptions } from "./session.js";

/** How well one graph replayed one golden run. */
export interface GoldenCheck {
  graph: string;
  /** Items per chunk. */
  t: number;
  steps: number;
  /** Tensor -> its error, in the run's measure (FORMAT.md, section 5). */
  errors: Record<string, number>;
  worst: number;
  tolerance: number;
  passed: boolean;
}

/**
 * Replay the golden runs on every graph of a bundle that the options allow.
 *
 * @throws DstError `golden-tensors`: a golden file breaks its layout, or a graph has no golden run.
 */
export async function verify(
  ort: Ort,
  source: Source,
  options: SessionOptions = {},
): Promise<GoldenCheck[]> {
  const first = await Session.open(ort, source, options);
  const { manifest } = first.bundle;
  const asked = manifest.graphs.filter(
    ({ file, lowering }) =>
      (!options.lowering || lowering === options.lowering) &&
      (!options.graph || file === options.graph),
  );
  const checks: GoldenCheck[] = [];
  for (const graph of asked) {
    const runs = runsOf(manifest, graph);
    if (!runs.length) fail("golden-tensors", `${source.label}: no golden run proves ${graph.file}`);
    const session = await Session.open(ort, source, {
      ...options,
      graph: graph.file,
      chunkSizes: graph.allowedT,
      checkStateEvery: 1,
      verify: "size", // they were hashed above
    });
    try {
      for (const [golden, t] of runs) checks.push(await replay(session, graph, golden, t));
    } finally {
      await session.close();
    }
  }
  return checks;
}

/** The golden runs that a graph takes, each with the T at which it takes it. */
function runsOf({ contract, golden }: Manifest, graph: Graph): [Golden, number][] {
  const own = golden.filter(({ t }) => graph.allowedT.includes(t));
  if (own.length || contract.chunk.tail !== "exact") return own.map((run) => [run, run.t]);
  return golden.flatMap((run): [Golden, number][] => {
    const sizes = graph.allowedT.filter((t) => run.t % t === 0);
    return sizes.length ? [[run, Math.max(...sizes)]] : [];
  });
}

async function replay(
  session: Session,
  graph: Graph,
  golden: Golden,
  t: number,
): Promise<GoldenCheck> {
  const { chunk, outputs, state, streamInputs } = session.contract;
  const held = await session.bundle.tensors(golden.file);
  const tensor = (name: string, shape: number[]): Tensor => {
    const found = held.get(name);
    if (found && sameShape(found.shape, shape)) return found;
    const is = found ? `[${found.shape}]` : "missing";
    fail(
      "golden-tensors",
      `${session.bundle.label}: ${golden.file}: ${name} is ${is}, expected [${shape}]`,
    );
  };
  const inputs = streamInputs.map(({ input, shape }) => [
    input,
    tensor(`stream/${input}`, sized(shape, 0)),
  ]);
  const stream = session.stream({ inputs: Object.fromEntries(inputs) });
  const chunkShape = sized(chunk.shape, golden.t + chunk.lookahead);
  const chunks = tensor(`t${golden.t}/chunk`, [golden.steps, ...chunkShape]);
  const found = new Map<string, TypedArray[]>();
  const time = chunk.shape.indexOf("T");
  for (let step = 0; step < golden.steps; step++) {
    const pieces = outputs.map((): Tensor[] => []);
    for (let at = 0; at < golden.t; at += t) {
      const whole = part(chunks, step, chunkShape);
      const piece = t === golden.t ? whole : cut(whole, time, at, t);
      const answers = await stream.step(piece);
      outputs.forEach(({ name }, i) => {
        pieces[i]!.push(answers[name]!);
      });
    }
    outputs.forEach(({ name, shape }, i) => {
      const axis = shape.indexOf("T");
      const all = pieces[i]!;
      const value = axis < 0 ? all.at(-1)! : concatenated(all, axis);
      const key = `out/${name}`;
      found.set(key, [...(found.get(key) ?? []), value.data]);
    });
  }
  for (const [name, value] of Object.entries(await stream.state())) {
    found.set(`state/${name}`, [value.data]);
  }
  const shapes = new Map([
    ...outputs.map((o): [string, number[]] => [
      `out/${o.name}`,
      [golden.steps, ...sized(o.shape, golden.t)],
    ]),
    ...state.map((s): [string, number[]] => [`state/${s.input}`, sized(s.shape, 0)]),
  ]);
  const costs = [...held.keys()].some((name) => name.startsWith(`t${golden.t}/cost/`));
  const errors: Record<string, number> = {};
  for (const [name, shape] of shapes) {
    const expected = tensor(`t${golden.t}/${name}`, shape);
    const cost = costs ? Number(tensor(`t${golden.t}/cost/${name}`, []).data[0]) : undefined;
    errors[name] = errorOf(
      numbers(expected.dtype, found.get(name)!),
      numbers(expected.dtype, [expected.data]),
      cost,
    );
  }
  const worst = Math.max(...Object.values(errors));
  return {
    graph: graph.file,
    t,
    steps: (golden.steps * golden.t) / t,
    errors,
    worst,
    tolerance: graph.goldenTolerance,
    passed: worst <= graph.goldenTolerance,
  };
}

/** Entry `i` along the first axis. */
function part({ dtype, data }: Tensor, i: number, shape: number[]): Tensor {
  const size = product(shape);
  return { dtype, shape, data: data.subarray(i * size, (i + 1) * size) };
}

/** `count` places from `at` on along an axis. */
function cut({ dtype, shape, data }: Tensor, axis: number, at: number, count: number): Tensor {
  const [outer, inner] = [product(shape.slice(0, axis)), product(shape.slice(axis + 1))];
  const held = data.slice(0, outer * count * inner);
  for (let o = 0; o < outer; o++) {
    const from = (o * shape[axis]! + at) * inner;
    held.set(data.subarray(from, from + count * inner) as never, o * count * inner);
  }
  return { dtype, shape: shape.map((size, i) => (i === axis ? count : size)), data: held };
}

function concatenated(all: Tensor[], axis: number): Tensor {
  const { dtype, shape } = all[0]!;
  const [outer, inner] = [product(shape.slice(0, axis)), product(shape.slice(axis))];
  const Values = all[0]!.data.constructor as new (length: number) => TypedArray;
  const data = new Values(outer * inner * all.length);
  all.forEach((one, i) => {
    for (let o = 0; o < outer; o++) {
      const row = one.data.subarray(o * inner, (o + 1) * inner);
      data.set(row as never, (o * all.length + i) * inner);
    }
  });
  return { dtype, data, shape: shape.map((size, i) => (i === axis ? size * all.length : size)) };
}

function numbers(dtype: Tensor["dtype"], parts: TypedArray[]): Float64Array {
  const all = new Float64Array(parts.reduce((size, one) => size + one.length, 0));
  let at = 0;
  for (const one of parts) for (let i = 0; i < one.length; i++) all[at++] = numberAt(dtype, one, i);
  return all;
}

/** max|d| / rms(expected), or ||d|| / cost; infinite where it is not finite. */
export function errorOf(found: Float64Array, expected: Float64Array, cost?: number): number {
  if (found.length !== expected.length) return Number.POSITIVE_INFINITY;
  let [worst, squares, apart] = [0, 0, 0];
  for (let i = 0; i < found.length; i++) {
    const difference = Math.abs(found[i]! - expected[i]!);
    if (!(difference <= worst)) worst = difference; // also where it is NaN
    squares += expected[i]! ** 2;
    apart += difference ** 2;
  }
  if (worst === 0) return 0;
  const error =
    cost === undefined ? worst / Math.sqrt(squares / found.length) : Math.sqrt(apart) / cost;
  return Number.isFinite(error) ? error : Number.POSITIVE_INFINITY;
}
