// What callers feed a stream: its checks, its layout in a chunk, and its normalisation.

import {
  allFinite,
  bytesOf,
  type Dtype,
  fillWith,
  fromHalf,
  holds,
  isTensor,
  itemSize,
  newValues,
  normalisedIn,
  type Tensor,
  type TypedArray,
  toHalf,
  valuesOf,
} from "../base/dtype.js";
import { fail, shown } from "../base/errors.js";
import { fixedAxes, product, type Shape, sameShape, sized, spelled } from "../base/shapes.js";
import type { Chunk } from "../bundle/manifest.js";

/**
 * Items to read: a tensor `[n, ...]`, time first; values of whole items, one after the other; ids of
 * tokens; or bytes, where the tokenizer is `bytes`.
 */
export type Items = Tensor | TypedArray | readonly number[];

/** A run of items is time first: [n, outer, inner]. In a chunk the time axis stands between. */
export class ItemLayout {
  /** Values before the time axis, and bytes behind it. */
  readonly outer: number;
  readonly inner: number;

  constructor(shape: Shape, dtype: Dtype) {
    const time = shape.indexOf("T");
    this.outer = product(fixedAxes(shape.slice(0, time)));
    this.inner = product(fixedAxes(shape.slice(time + 1))) * itemSize(dtype);
  }

  get itemBytes(): number {
    return this.outer * this.inner;
  }

  /** Copy items into a chunk of `window` items, from place `at` on. */
  put(chunk: Uint8Array, window: number, at: number, items: Uint8Array): void {
    const { outer, inner } = this;
    if (outer === 1) {
      chunk.set(items, at * inner);
      return;
    }
    const count = items.length / this.itemBytes;
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < count; i++) {
        const from = (i * outer + o) * inner;
        chunk.set(items.subarray(from, from + inner), (o * window + at + i) * inner);
      }
    }
  }

  /** Copy items out of a chunk. */
  take(chunk: Uint8Array, window: number, at: number, count: number): Uint8Array {
    const { outer, inner } = this;
    if (outer === 1) return chunk.slice(at * inner, (at + count) * inner);
    const items = new Uint8Array(count * this.itemBytes);
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < count; i++) {
        const from = (o * window + at + i) * inner;
        items.set(chunk.subarray(from, from + inner), (i * outer + o) * inner);
      }
    }
    return items;
  }
}

/** The values of one step's chunk, made once: as callers give them, and as the graph takes them. */
export class ChunkBuffer {
  readonly window: number;
  readonly raw: TypedArray;
  readonly feed: TypedArray;
  readonly bytes: Uint8Array;
  readonly #scale: { mean: TypedArray; std: TypedArray } | undefined;

  constructor(
    private readonly chunk: Chunk,
    layout: ItemLayout,
    t: number,
  ) {
    this.window = chunk.lookback + t + chunk.lookahead;
    const count = (this.window * layout.itemBytes) / itemSize(chunk.dtype);
    this.raw = newValues(chunk.dtype, count);
    this.bytes = bytesOf(this.raw);
    const normalisation = chunk.content.kind === "features" ? chunk.content.normalisation : null;
    this.feed = normalisation ? newValues(chunk.dtype, count) : this.raw;
    this.#scale = normalisation
      ? {
          mean: spread(chunk, this.window, normalisation.mean),
          std: spread(chunk, this.window, normalisation.std),
        }
      : undefined;
  }

  get dtype(): Dtype {
    return this.chunk.dtype;
  }

  /** Bring `feed` up to date. Throws DstError where a graph cannot read it. */
  check(): void {
    const { content, dtype } = this.chunk;
    if (content.kind === "tokens") {
      if (!idsInRange(this.raw, content.vocabulary)) {
        fail("token-out-of-range", outside(content.vocabulary));
      }
      return;
    }
    if (this.#scale) normalise(dtype, this.raw, this.feed, this.#scale.mean, this.#scale.std);
    if (!allFinite(dtype, this.feed)) {
      fail("input-not-finite", "the chunk holds a NaN or an infinity; nothing was stepped");
    }
  }
}

/** The values of one item, repeated over a whole window in the chunk's layout. */
function spread(chunk: Chunk, window: number, values: number[]): TypedArray {
  const dtype = normalisedIn(chunk.dtype);
  const layout = new ItemLayout(chunk.shape, dtype);
  const item = newValues(dtype, values.length);
  values.forEach((value, i) => {
    fillWith(dtype, item.subarray(i, i + 1), value);
  });
  const all = newValues(dtype, window * values.length);
  for (let i = 0; i < window; i++) layout.put(bytesOf(all), window, i, bytesOf(item));
  return all;
}

/** (x - mean) / std, each operation rounded to `normalisedIn`, and the result to the dtype. */
function normalise(
  dtype: Dtype,
  raw: TypedArray,
  feed: TypedArray,
  mean: TypedArray,
  std: TypedArray,
): void {
  const [x, y, m, s] = [raw, feed, mean, std] as Float32Array[];
  const count = x!.length;
  if (dtype === "float32") {
    // a float32 operation done in float64 and rounded is the float32 operation, exactly
    for (let i = 0; i < count; i++) y![i] = Math.fround(x![i]! - m![i]!) / s![i]!;
  } else if (dtype === "float64") {
    for (let i = 0; i < count; i++) y![i] = (x![i]! - m![i]!) / s![i]!;
  } else {
    for (let i = 0; i < count; i++) {
      y![i] = toHalf(Math.fround(Math.fround(fromHalf(x![i]!) - m![i]!) / s![i]!));
    }
  }
}

const outside = (vocabulary: number) =>
  `a token lies outside 0 .. ${vocabulary - 1}; nothing was read`;

function idsInRange(ids: TypedArray, vocabulary: number): boolean {
  if (ids instanceof BigInt64Array) {
    const limit = BigInt(vocabulary);
    for (const id of ids) if (id < 0n || id >= limit) return false;
    return true;
  }
  for (const id of ids) if (id < 0 || id >= vocabulary) return false;
  return true;
}

/**
 * Check items and return their bytes, time first.
 *
 * Throws DstError: `chunk-type`, `chunk-shape`, `token-out-of-range`, `input-not-finite`.
 */
export function checkItems(chunk: Chunk, given: Items): Uint8Array {
  const items = asTensor(chunk, given);
  checkDtype("items", chunk, items);
  const wanted = fixedAxes(chunk.shape);
  const [count, ...axes] = items.shape;
  if (count === undefined || !Number.isInteger(count) || !sameShape(axes, wanted)) {
    fail(
      "chunk-shape",
      `items have shape ${spelled(items.shape)}, expected ${spelled(["n", ...wanted])}`,
    );
  }
  checkCount("items", items);
  if (chunk.content.kind === "tokens") {
    if (!idsInRange(items.data, chunk.content.vocabulary)) {
      fail("token-out-of-range", outside(chunk.content.vocabulary));
    }
  } else if (!allFinite(chunk.dtype, items.data)) {
    fail("input-not-finite", "items hold a NaN or an infinity; nothing was read");
  }
  return bytesOf(items.data);
}

/** What came in a short form as a tensor. Throws DstError: `chunk-type`, `chunk-shape`. */
function asTensor(chunk: Chunk, given: Items): Tensor {
  if (isTensor(given)) return given;
  const { content, dtype } = chunk;
  if (!Array.isArray(given) && (!ArrayBuffer.isView(given) || given instanceof DataView)) {
    fail(
      "chunk-type",
      `items are ${kindOf(given)}, expected a tensor { dtype, shape, data }, a typed array or a list of numbers`,
    );
  }
  const bytes =
    given instanceof Uint8Array && content.kind === "tokens" && content.tokenizer === "bytes";
  if (Array.isArray(given) || (bytes && dtype !== "uint8")) {
    return {
      dtype,
      shape: shapeOf(chunk, given.length),
      data: converted(dtype, given as number[]),
    };
  }
  const same = newValues(dtype, 0).constructor === given.constructor;
  const held = same ? dtype : (nameOf(given as TypedArray) as Dtype); // which is refused
  return { dtype: held, shape: shapeOf(chunk, given.length), data: given as TypedArray };
}

function shapeOf(chunk: Chunk, count: number): number[] {
  const axes = fixedAxes(chunk.shape);
  const size = product(axes);
  if (count % size) {
    fail(
      "chunk-shape",
      `${count} values are no whole number of items of ${axes.join(" x ")} values`,
    );
  }
  return [count / size, ...axes];
}

/** What a value is, for a message. */
function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value !== "object" || value === null) return value === null ? "null" : typeof value;
  return shown(value.constructor?.name ?? "an object");
}

/** The dtype whose values a typed array holds. */
function nameOf(values: TypedArray): string {
  return values.constructor.name.replace("Array", "").replace("Big", "").toLowerCase();
}

function checkCount(what: string, { data, shape }: Tensor): void {
  const wanted = product(shape);
  if (wanted === data.length) return;
  fail(
    "chunk-shape",
    `${what} of shape ${spelled(shape)}: expected ${wanted} values, ${data.length} came`,
  );
}

function converted(dtype: Dtype, values: ArrayLike<number>): TypedArray {
  const data = newValues(dtype, values.length);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (typeof value !== "number") {
      fail(
        "chunk-type",
        `value ${i} of the list is ${kindOf(value)}, expected a number; give the values of all items in one flat list`,
      );
    }
    if (data instanceof BigInt64Array) {
      data[i] = Number.isInteger(value) ? BigInt(value) : -1n; // no id, which is refused
    } else if (dtype === "int32" || dtype === "uint8") {
      if (
        value !== Math.trunc(value) ||
        value < 0 ||
        value > 2 ** 31 - 1 ||
        (dtype === "uint8" && value > 255)
      ) {
        fail("token-out-of-range", `${value} is no token of this model; nothing was read`);
      }
      data[i] = value;
    } else {
      data[i] = dtype === "float16" ? toHalf(value) : value;
    }
  }
  return data;
}

/** Whether a chunk fits. Returns its T. Throws DstError: `chunk-type`, `chunk-shape`. */
export function checkChunk(chunk: Chunk, sizes: readonly number[], given: Tensor): number {
  if (!isTensor(given)) {
    fail(
      "chunk-type",
      `chunk is ${kindOf(given)}, expected a tensor { dtype, shape, data }; advance takes short forms`,
    );
  }
  checkDtype("chunk", chunk, given);
  const t = (given.shape[chunk.shape.indexOf("T")] ?? 0) - chunk.lookahead;
  const wanted = sized(chunk.shape, t + chunk.lookahead);
  if (!sizes.includes(t) || !sameShape(given.shape, wanted)) {
    fail(
      "chunk-shape",
      `chunk has shape ${spelled(given.shape)}, expected ${spelled(chunk.shape)} with B = 1 and T one of ${sizes.join(", ")}; advance takes any number of items`,
    );
  }
  checkCount("chunk", given);
  return t;
}

function checkDtype(what: string, chunk: Chunk, given: Tensor): void {
  if (given.dtype !== chunk.dtype) {
    fail("chunk-type", `${what} has dtype ${given.dtype}, expected ${chunk.dtype}`);
  }
  if (!holds(chunk.dtype, given.data)) {
    fail("chunk-type", `${what} has dtype ${given.dtype}, and ${nameOf(given.data)} for its data`);
  }
}

/** Items that stand for the past at the start of a stream. */
export function firstLookback(chunk: Chunk, layout: ItemLayout): Uint8Array {
  const bytes = new Uint8Array(chunk.lookback * layout.itemBytes);
  fillWith(chunk.dtype, valuesOf(chunk.dtype, bytes), chunk.lookbackFill ?? 0);
  return bytes;
}
