// The inputs of one stream, given once when it starts.

import { allFinite, holds, isTensor, type Tensor } from "../base/dtype.js";
import { fail, shown } from "../base/errors.js";
import { fixedAxes, product, sameShape, sized, spelled } from "../base/shapes.js";
import type { Contract } from "../bundle/manifest.js";

/** By name, in the contract's order and with B = 1; never changed. */
export type GivenInputs = ReadonlyMap<string, Tensor>;

/** Check and copy what a caller gives. Throws DstError (`stream-input-…`). */
export function checkInputs(
  { streamInputs }: Contract,
  inputs: Readonly<Record<string, Tensor>>,
): GivenInputs {
  const refuse = (code: string, name: string, what: string): never =>
    fail(code, `stream input ${shown(name)} ${what}`);
  const known = streamInputs.map((one) => one.input);
  for (const name of Object.keys(inputs)) {
    if (!known.includes(name)) {
      refuse("stream-input-unknown", name, `is not known; the model takes ${known.join(", ")}`);
    }
  }
  for (const name of known) {
    if (!Object.hasOwn(inputs, name)) refuse("stream-input-missing", name, "is missing");
  }
  return new Map(
    streamInputs.map(({ input, dtype, shape }) => {
      const given = inputs[input]!;
      if (!isTensor(given)) refuse("stream-input-type", input, "is no tensor");
      if (!holds(dtype, given.data)) {
        const kind = given.data.constructor.name;
        refuse("stream-input-type", input, `is held in a ${kind}, expected ${dtype}`);
      }
      if (given.dtype !== dtype) {
        refuse("stream-input-type", input, `is ${given.dtype}, expected ${dtype}`);
      }
      const sizes = sized(shape, 0);
      const fits = sameShape(given.shape, sizes) || sameShape(given.shape, fixedAxes(shape));
      if (!fits || given.data.length !== product(sizes)) {
        const is = `shape ${spelled(given.shape)} and ${given.data.length} values`;
        refuse("stream-input-shape", input, `has ${is}, expected shape ${spelled(sizes)}`);
      }
      if (!allFinite(dtype, given.data)) {
        refuse("stream-input-not-finite", input, "holds a NaN or an infinity");
      }
      return [input, { dtype, shape: sizes, data: given.data.slice() }];
    }),
  );
}
