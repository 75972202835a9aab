// Score a prediction: how many bits of surprise the item that came is.

import { fromHalf, type Tensor } from "./base/dtype.js";

/**
 * -log2 softmax(logits)[id] for each id, in float64.
 *
 * `logits` is `[..., n, V]`, and row i predicts `ids[i]`. Rows or ids without a partner are left out,
 * so that `surpriseBits(logits, ids.subarray(1))` scores what `advance(ids)` has answered.
 */
export function surpriseBits(logits: Tensor, ids: ArrayLike<number | bigint>): Float64Array {
  const width = logits.shape.at(-1) ?? 0;
  const { data, dtype } = logits;
  const bits = new Float64Array(Math.min(ids.length, width ? data.length / width : 0));
  for (let i = 0; i < bits.length; i++) {
    const values = data.subarray(i * width, (i + 1) * width) as Float32Array;
    const row = dtype === "float16" ? Float64Array.from(values, fromHalf) : values;
    let top = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < width; j++) if (row[j]! > top) top = row[j]!;
    let sum = 0;
    for (let j = 0; j < width; j++) sum += Math.exp(row[j]! - top);
    bits[i] = (Math.log(sum) + top - row[Number(ids[i])]!) / Math.LN2;
  }
  return bits;
}
