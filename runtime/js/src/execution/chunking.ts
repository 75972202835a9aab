// Cut items into chunks, step each chunk, and join the outputs.
//
// A chunk is stepped as soon as its T items and those of its look-ahead are there; the next one
// begins T items later.

import { bytesOf, fillWith, newValues, type Tensor, valuesOf } from "../base/dtype.js";
import { fail } from "../base/errors.js";
import { product, sized } from "../base/shapes.js";
import type { Output } from "../bundle/manifest.js";
import type { Outputs, Recurrence, Step } from "./recurrence.js";

/** Which answers a call gives. */
export interface Wanted {
  /** Only the last item that is stepped is answered for. */
  last: boolean;
  outputs: readonly Output[];
}

/** Read items behind those that wait, and step every chunk that is full. */
export async function readItems(
  core: Recurrence,
  fresh: Uint8Array,
  wanted: Wanted,
  stop: () => void,
): Promise<Outputs> {
  const { chunk } = core.engine.contract;
  const all = joined(core.position.pending, fresh);
  const count = all.length / core.layout.itemBytes;
  const chunks = Math.max(0, Math.floor((count - chunk.lookahead) / chunk.nominalT));
  const sizes = new Array<number>(chunks).fill(chunk.nominalT);
  return takeSteps(core, all, sizes, 0, wanted, stop);
}

/** End the input by the contract's tail rule. */
export async function readTail(
  core: Recurrence,
  wanted: Wanted,
  stop: () => void,
): Promise<Outputs> {
  const { chunk } = core.engine.contract;
  const { nominalT } = chunk;
  const all = core.position.pending;
  const chunks = Math.max(0, Math.floor((core.waiting - chunk.lookahead) / nominalT));
  const sizes = new Array<number>(chunks).fill(nominalT);
  let rest = core.waiting - chunks * nominalT;
  if (rest && chunk.tail === "refuse") {
    fail(
      "partial-chunk",
      `${rest} items wait and this model takes whole chunks of ${nominalT} only; give more, or reset the stream`,
    );
  }
  if (rest && chunk.tail === "pad") return takeSteps(core, all, sizes, rest, wanted, stop);
  for (const t of [...core.engine.chunkSizes].reverse()) {
    for (; rest >= t; rest -= t) sizes.push(t); // the largest that fit, repeatedly
  }
  if (rest) {
    fail(
      "chunk-size",
      `${rest} items are left that no chunk of this session can hold; open it with 1 among its chunkSizes`,
    );
  }
  return takeSteps(core, all, sizes, 0, wanted, stop);
}

/**
 * Step chunks of these sizes over `all` items; what is left waits.
 *
 * With `padded`, chunks of the nominal T follow for so many more items, which are all that there are,
 * and padding behind them. These items are answered for, but go on waiting, and the state after these
 * chunks is dropped.
 */
async function takeSteps(
  core: Recurrence,
  all: Uint8Array,
  firm: number[],
  padded: number,
  { last, outputs }: Wanted,
  stop: () => void,
): Promise<Outputs> {
  const { chunk } = core.engine.contract;
  const { itemBytes } = core.layout;
  const lastOnly = last && !padded; // the last item before padding is not the chunk's last
  const more = Math.ceil(padded / chunk.nominalT);
  const sizes = [...firm, ...new Array<number>(more).fill(chunk.nominalT)];
  const read = firm.reduce((sum, t) => sum + t, 0);
  const joiner = new Joiner(outputs, sizes.length, read + padded, lastOnly);
  for (const t of new Set(sizes)) core.stepFor(t, lastOnly); // refused before the first step
  let at = 0;
  for (const [i, t] of sizes.entries()) {
    const step = core.stepFor(t, lastOnly);
    if (i === firm.length) core.hold();
    fill(core, step, all.subarray(at * itemBytes));
    const found = await core.stepOnce(step, stop);
    const taken = Math.min(t, read + padded - at);
    joiner.take(found, i, at, taken);
    at += taken;
  }
  if (padded) core.release();
  core.position = { ...core.position, pending: all.slice(read * itemBytes) };
  return joiner.outputs();
}

/** Copy the next items to a step's chunk, and padding behind the last one. */
function fill(core: Recurrence, { chunk: buffer }: Step, items: Uint8Array): void {
  const { chunk } = core.engine.contract;
  const { itemBytes } = core.layout;
  const room = (buffer.window - chunk.lookback) * itemBytes;
  core.layout.put(buffer.bytes, buffer.window, chunk.lookback, items.subarray(0, room));
  if (items.length >= room) return;
  const padding = new Uint8Array(room - items.length);
  fillWith(chunk.dtype, valuesOf(chunk.dtype, padding), chunk.padValue ?? 0);
  const place = chunk.lookback + items.length / itemBytes;
  core.layout.put(buffer.bytes, buffer.window, place, padding);
}

export function joined(first: Uint8Array, second: Uint8Array): Uint8Array {
  if (!first.length) return second;
  const all = new Uint8Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}

/** The outputs of all chunks: joined along the time axis, or stacked where they are per chunk. */
class Joiner {
  readonly #parts: { output: Output; time: number; items: number; tensor: Tensor }[];

  constructor(
    outputs: readonly Output[],
    chunks: number,
    answered: number,
    private readonly last: boolean,
  ) {
    this.#parts = outputs.map((output) => {
      const { dtype, shape: letters } = output;
      const time = letters.indexOf("T");
      const items = last ? Math.min(1, answered) : answered;
      const shape = time < 0 ? [chunks, ...sized(letters, 0)] : sized(letters, items);
      return {
        output,
        time,
        items,
        tensor: { dtype, shape, data: newValues(dtype, product(shape)) },
      };
    });
  }

  /** Copy the outputs of chunk `number`, the first `count` items of them, to place `at`. */
  take(found: Outputs, number: number, at: number, count: number): void {
    for (const { output, time, items, tensor } of this.#parts) {
      const { data, shape } = found[output.name]!;
      const to = bytesOf(tensor.data);
      const from = bytesOf(data);
      if (time < 0 || this.last) {
        to.set(from, time < 0 ? number * from.length : 0);
        continue;
      }
      const outer = product(shape.slice(0, time));
      const row = from.length / outer; // bytes of all items at one place of the axes before time
      const inner = row / shape[time]!;
      for (let o = 0; o < outer; o++) {
        const part = from.subarray(o * row, o * row + count * inner);
        to.set(part, (o * items + at) * inner);
      }
    }
  }

  outputs(): Outputs {
    return Object.fromEntries(this.#parts.map(({ output, tensor }) => [output.name, tensor]));
  }
}
