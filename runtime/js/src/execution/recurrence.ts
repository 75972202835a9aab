// What one stream is, moved by whole calls or not at all.
//
// A position is never changed: each step makes new state tensors and a new position, and going back
// is to take the old position again. A snapshot, a failed call and the last good state cost nothing.

import { expect, expectOptions } from "../base/arguments.js";
import { allFinite, type Tensor, type TypedArray } from "../base/dtype.js";
import { fail, firstLine, shown } from "../base/errors.js";
import { product, sameShape, sized } from "../base/shapes.js";
import type { Output } from "../bundle/manifest.js";
import type { Sampler } from "../state/sampler.js";
import type { Engine } from "./engine.js";
import { ChunkBuffer, firstLookback, ItemLayout } from "./items.js";
import { fedBack, fetchValues, type OrtTensor, oneByOne, toOrt, valuesIn } from "./ort.js";
import type { GivenInputs } from "./stream-inputs.js";

/** Output name -> values in the contract's shape with B = 1. */
export type Outputs = Record<string, Tensor>;

/** When to give up: looked at before each step. */
export interface Stop {
  deadlineMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface Position {
  readonly state: readonly OrtTensor[];
  /** Items, time first, as callers gave them. */
  readonly lookback: Uint8Array;
  readonly pending: Uint8Array;
  /** How many items are in the state. */
  readonly items: bigint;
  readonly sampler: Sampler | null;
  readonly given: Given;
  /** Steps since the state was last found finite. */
  readonly unchecked: number;
  /** It was found finite, and is to be kept as the last good one. */
  readonly goodDue: boolean;
}

interface Given {
  readonly inputs: GivenInputs;
  readonly feeds: Record<string, OrtTensor>;
}

/** Everything a stream is, to be put in the place of what it is. */
export interface Contents {
  state: readonly Tensor[];
  lookback: Uint8Array;
  pending: Uint8Array;
  items: bigint;
  sampler: Sampler | null;
  inputs: GivenInputs;
}

/** The buffers of chunks of one T. */
export interface Step {
  readonly t: number;
  /** Only the last item is answered for. */
  readonly last: boolean;
  readonly chunk: ChunkBuffer;
  readonly feeds: Record<string, OrtTensor>;
  /** How many items the graph answers for. */
  readonly answered: number;
}

/** The state after a step is not finite; `recover` says what the caller is told. */
export class BadState extends Error {}

export class Recurrence {
  position!: Position;
  readonly layout: ItemLayout;
  readonly #steps = new Map<string, Step>();
  readonly #onDevice = new Set<readonly OrtTensor[]>();
  #before!: Position;
  #held: Position | undefined;
  #lastGood!: Position;
  #checked = false;

  constructor(readonly engine: Engine) {
    const { chunk } = engine.contract;
    this.layout = new ItemLayout(chunk.shape, chunk.dtype);
  }

  get waiting(): number {
    return this.position.pending.length / this.layout.itemBytes;
  }

  stepFor(t: number, lastItem: boolean): Step {
    const last = lastItem && t > 1;
    const key = `${t} ${last}`;
    const held = this.#steps.get(key);
    if (held) return held;
    const { contract, ort } = this.engine;
    const { answers } = this.engine.graphFor(t);
    const answered = last && answers !== null ? 1 : t;
    const chunk = new ChunkBuffer(contract.chunk, this.layout, t);
    const { dtype, input, shape } = contract.chunk;
    const feeds = {
      [input]: toOrt(ort, { dtype, shape: sized(shape, chunk.window), data: chunk.feed }),
    };
    for (const { input, dtype, shape, values } of contract.constants) {
      feeds[input] = toOrt(ort, { dtype, shape, data: values });
    }
    if (answers !== null) {
      const places = BigInt64Array.from({ length: answered }, (_, i) => BigInt(t - answered + i));
      feeds[answers] = toOrt(ort, { dtype: "int64", shape: [answered], data: places });
    }
    const step = { t, last, chunk, feeds, answered };
    this.#steps.set(key, step);
    return step;
  }

  /** Do some steps as one call: all of them, or none. */
  async inOneCall<Result>(work: () => Promise<Result>): Promise<Result> {
    if (this.position.goodDue) {
      this.#lastGood = { ...this.position, pending: new Uint8Array(0) };
      this.position = { ...this.position, goodDue: false };
    }
    this.#before = this.position;
    this.#checked = false;
    try {
      const result = await work();
      // A state that was checked on the way is checked at its end too.
      if (this.#checked && !this.position.goodDue) await this.check();
      return result;
    } catch (error) {
      this.position = this.#before;
      if (error instanceof BadState) await this.#recover(error);
      throw error;
    } finally {
      this.#held = undefined;
      this.#sweep([this.position, this.#lastGood]);
    }
  }

  /** Keep the position, before steps that `release` takes back. */
  hold(): void {
    this.#held = this.position;
  }

  release(): void {
    this.position = this.#held!;
  }

  /** Step on the chunk that lies in `step` behind the lookback, and move on. */
  async stepOnce(step: Step, stop: () => void): Promise<Outputs> {
    const { contract, options } = this.engine;
    const { chunk, t } = step;
    const before = this.position;
    const { lookback } = contract.chunk;
    if (lookback) this.layout.put(chunk.bytes, chunk.window, 0, before.lookback);
    chunk.check();
    stop();
    const found = await this.#run(step, before);
    const state = contract.state.map(({ output, shape }) => {
      return fedBack(this.engine.ort, checkedShape(found, output, sized(shape, 0)));
    });
    if (state.some((tensor) => tensor.location !== "cpu")) this.#onDevice.add(state);
    const outputs = Object.fromEntries(
      contract.outputs.map((output) => [output.name, answer(found, output, step)]),
    );
    const items = before.items + BigInt(t);
    const due = before.unchecked + 1 >= options.checkStateEvery;
    if (due) await this.#checkState(state, items);
    this.position = {
      ...before,
      state,
      items,
      lookback: lookback
        ? this.layout.take(chunk.bytes, chunk.window, t, lookback)
        : before.lookback,
      unchecked: due ? 0 : before.unchecked + 1,
      goodDue: due,
    };
    if (this.#onDevice.size) this.#sweep([this.position, this.#before, this.#held, this.#lastGood]);
    return outputs;
  }

  /** Check the state now, if it was not since it last moved. Throws BadState. */
  async check(): Promise<void> {
    if (this.position.unchecked === 0) return;
    await this.#checkState(this.position.state, this.position.items);
    this.position = { ...this.position, unchecked: 0, goodDue: true };
  }

  /** Replace everything. Throws DstError, `state-not-finite`; the stream is then as it was. */
  put(contents: Contents): void {
    const { ort } = this.engine;
    contents.state.forEach(({ dtype, data }, i) => {
      if (allFinite(dtype, data)) return;
      const name = shown(this.engine.contract.state[i]!.input);
      fail("state-not-finite", `state ${name} holds a NaN or an infinity; the stream is as it was`);
    });
    const { inputs, state, ...rest } = contents;
    const feeds = [...inputs].map(([name, tensor]) => [name, toOrt(ort, tensor)]);
    this.position = {
      ...rest,
      state: state.map((tensor) => toOrt(ort, tensor)),
      given: { inputs, feeds: Object.fromEntries(feeds) },
      unchecked: 0,
      goodDue: true,
    };
    this.#lastGood = { ...this.position, pending: new Uint8Array(0) };
    this.#sweep([this.position]);
  }

  /** Go to the initial state, with nothing pending and nothing sampled. */
  reset(inputs: GivenInputs): void {
    this.put({
      state: this.engine.initial,
      lookback: firstLookback(this.engine.contract.chunk, this.layout),
      pending: new Uint8Array(0),
      items: 0n,
      sampler: null,
      inputs,
    });
  }

  /** The values of the state now; views that nobody changes. */
  async stateValues(): Promise<Tensor[]> {
    const { state } = this.position;
    const found: Tensor[] = [];
    for (const [i, { dtype, shape }] of this.engine.contract.state.entries()) {
      const data = await onThisSide(state[i]!, dtype);
      found.push({ dtype, shape: sized(shape, 0), data });
    }
    return found;
  }

  // --- inside

  async #run(step: Step, { given, state }: Position): Promise<Record<string, OrtTensor>> {
    const { engine } = this;
    const session = await engine.sessionFor(step.t);
    const feeds = { ...step.feeds, ...given.feeds };
    engine.contract.state.forEach(({ input }, i) => {
      feeds[input] = state[i]!;
    });
    try {
      return await oneByOne(() => session.run(feeds));
    } catch (error) {
      return fail("graph-failed", `${engine.graphFor(step.t).file} failed: ${firstLine(error)}`);
    }
  }

  async #badTensor(state: readonly OrtTensor[]): Promise<string | undefined> {
    for (const [i, { dtype, input }] of this.engine.contract.state.entries()) {
      if (!allFinite(dtype, await onThisSide(state[i]!, dtype))) return input;
    }
    return undefined;
  }

  async #checkState(state: readonly OrtTensor[], items: bigint): Promise<void> {
    const name = await this.#badTensor(state);
    if (name !== undefined) {
      throw new BadState(`state ${shown(name)} holds a NaN or an infinity, found at item ${items}`);
    }
    this.#checked = true;
  }

  /** Say that a bad state was found; if it was bad before the call, go to the last good one. */
  async #recover(bad: BadState): Promise<never> {
    let where = "the stream is as it was before the call";
    if ((await this.#badTensor(this.position.state)) !== undefined) {
      this.position = { ...this.#lastGood, unchecked: 0, goodDue: true };
      where = `the stream was put back to its last good state at item ${this.position.items}, with nothing pending`;
    }
    return fail("state-not-finite", `${bad.message}; ${where}`);
  }

  /** Give device memory back that no position needs; JavaScript would not know to do it. */
  #sweep(kept: (Position | undefined)[]): void {
    for (const state of this.#onDevice) {
      if (kept.some((position) => position?.state === state)) continue;
      for (const tensor of state) if (tensor.location !== "cpu") tensor.dispose();
      this.#onDevice.delete(state);
    }
  }
}

function onThisSide(tensor: OrtTensor, dtype: Tensor["dtype"]): TypedArray | Promise<TypedArray> {
  return tensor.location === "cpu"
    ? valuesIn(tensor, dtype)
    : oneByOne(() => fetchValues(tensor, dtype));
}

function checkedShape(found: Record<string, OrtTensor>, name: string, shape: number[]): OrtTensor {
  const tensor = found[name];
  if (tensor && sameShape(tensor.dims, shape)) return tensor;
  fail("graph-failed", `${shown(name)} came out as [${tensor?.dims}], expected [${shape}]`);
}

/** One output of a step, or the part of it that is answered with. */
function answer(found: Record<string, OrtTensor>, output: Output, step: Step): Tensor {
  const { dtype, name, shape } = output;
  const tensor = checkedShape(found, name, sized(shape, step.answered));
  const data = valuesIn(tensor, dtype);
  if (!allFinite(dtype, data)) {
    fail(
      "output-not-finite",
      `output ${shown(name)} holds a NaN or an infinity; the step was not taken`,
    );
  }
  const time = shape.indexOf("T");
  if (!step.last || step.answered === 1 || time < 0) return { dtype, shape: tensor.dims, data };
  return lastItem({ dtype, shape: tensor.dims, data }, time);
}

function lastItem({ dtype, shape, data }: Tensor, time: number): Tensor {
  const [outer, inner] = [product(shape.slice(0, time)), product(shape.slice(time + 1))];
  const count = shape[time]!;
  const one = data.slice(0, outer * inner);
  for (let o = 0; o < outer; o++) {
    const from = (o * count + count - 1) * inner;
    one.set(data.subarray(from, from + inner) as never, o * inner);
  }
  return { dtype, shape: shape.map((size, i) => (i === time ? 1 : size)), data: one };
}

/** What stops a call: a deadline from now on, or a signal. */
export function stopOf(options: Stop): () => void {
  expectOptions(options, { last: "boolean", signal: "object" });
  const { deadlineMs, signal } = options;
  const good = deadlineMs === undefined || (typeof deadlineMs === "number" && deadlineMs >= 0);
  expect("deadlineMs", deadlineMs, "0 or more", good);
  const end = deadlineMs === undefined ? Number.POSITIVE_INFINITY : performance.now() + deadlineMs;
  return () => {
    if (signal?.aborted) fail("cancelled", "the call was cancelled; it was not taken");
    if (performance.now() >= end)
      fail("deadline", "the call did not finish in time; it was not taken");
  };
}
