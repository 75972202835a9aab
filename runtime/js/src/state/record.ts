// Convert a live stream to a record of everything it is, and back.

import { type Tensor, valuesOf } from "../base/dtype.js";
import { DstError, fail, shown } from "../base/errors.js";
import { fixedAxes, sameShape, sized } from "../base/shapes.js";
import { respelled } from "../bundle/constants.js";
import type { Chunk } from "../bundle/manifest.js";
import type { Identity } from "../execution/engine.js";
import { checkItems } from "../execution/items.js";
import type { Recurrence } from "../execution/recurrence.js";
import { checkInputs } from "../execution/stream-inputs.js";
import type { Sampler } from "./sampler.js";

/** Everything a stream is, as `snapshot` gives it and a saved state holds it. */
export interface Snapshot {
  readonly identity: Identity;
  /** Items in the state. */
  readonly items: bigint;
  readonly sampler: Sampler | null;
  /** As in the file: state/<input>, stream/<input>, pending, lookback. */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** Whether a value has the form of a snapshot; what it holds is checked when it is put. */
export function isSnapshot(value: Snapshot | undefined): boolean {
  const { identity, items, tensors } = (value ?? {}) as Partial<Snapshot>;
  return identity?.constants instanceof Map && tensors instanceof Map && typeof items === "bigint";
}

export async function toSnapshot(core: Recurrence): Promise<Snapshot> {
  const { engine, layout, position } = core;
  const { chunk, state } = engine.contract;
  const items = (bytes: Uint8Array): Tensor => {
    const shape = [bytes.length / layout.itemBytes, ...fixedAxes(chunk.shape)];
    return { dtype: chunk.dtype, shape, data: valuesOf(chunk.dtype, bytes) };
  };
  const tensors = new Map([
    ["pending", items(position.pending)],
    ["lookback", items(position.lookback)],
  ]);
  const values = await core.stateValues();
  state.forEach(({ input }, i) => {
    tensors.set(`state/${input}`, values[i]!);
  });
  for (const [name, tensor] of position.given.inputs) tensors.set(`stream/${name}`, tensor);
  return { identity: engine.identity, items: position.items, sampler: position.sampler, tensors };
}

/**
 * Make a stream what a snapshot says; if it cannot be, it is as it was.
 *
 * Throws DstError: `other-…`, `state-tensors`, `state-not-finite`.
 */
export function putSnapshot(core: Recurrence, snapshot: Snapshot, allowPrecision = false): void {
  const { engine } = core;
  checkIdentity(snapshot.identity, engine.identity, allowPrecision);
  const { chunk, state, streamInputs } = engine.contract;
  const known = new Set<string>();
  const tensorOf = (name: string): Tensor => {
    const tensor = snapshot.tensors.get(name);
    if (!tensor) fail("state-tensors", `has no tensor ${shown(name)}`);
    known.add(name);
    return tensor;
  };
  const exact = (name: string, dtype: string, shape: number[]): Tensor => {
    const tensor = tensorOf(name);
    if (tensor.dtype === dtype && sameShape(tensor.shape, shape)) return tensor;
    const is = `${tensor.dtype} [${tensor.shape}]`;
    fail("state-tensors", `${shown(name)} is ${is}, the contract says ${dtype} [${shape}]`);
  };
  const lookback = exact("lookback", chunk.dtype, [chunk.lookback, ...fixedAxes(chunk.shape)]);
  const contents = {
    state: state.map(({ input, dtype, shape }) => exact(`state/${input}`, dtype, sized(shape, 0))),
    lookback: itemBytes("lookback", chunk, lookback),
    pending: itemBytes("pending", chunk, tensorOf("pending")),
    items: snapshot.items,
    sampler: snapshot.sampler,
    inputs: within("stream input", () =>
      checkInputs(
        engine.contract,
        Object.fromEntries(
          streamInputs.map(({ input, dtype, shape }) => [
            input,
            exact(`stream/${input}`, dtype, sized(shape, 0)),
          ]),
        ),
      ),
    ),
  };
  for (const name of snapshot.tensors.keys()) {
    if (!known.has(name)) fail("state-tensors", `holds an unknown tensor ${shown(name)}`);
  }
  core.put(contents);
}

/** Items of a saved state must be such as a stream takes: they are fed without another look. */
function itemBytes(name: string, chunk: Chunk, tensor: Tensor): Uint8Array {
  return within(name, () => checkItems(chunk, tensor));
}

function within<Result>(name: string, check: () => Result): Result {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof DstError)) throw error;
    fail("state-tensors", `${name}: ${error.message}`);
  }
}

function checkIdentity(theirs: Identity, ours: Identity, allowPrecision: boolean): void {
  const constant = constantFault(theirs, ours);
  if (constant) fail("other-constant", shown(constant));
  if (theirs.modelId !== ours.modelId) {
    fail("other-model", `model ${theirs.modelId} made it, this session runs ${ours.modelId}`);
  }
  if (theirs.stateHash !== ours.stateHash) {
    fail("other-state-layout", "it was made with another layout of the state");
  }
  if (theirs.precision !== ours.precision && !allowPrecision) {
    const made = shown(theirs.precision);
    fail(
      "other-precision",
      `it was made at precision ${made}, this session runs ${ours.precision}; allowPrecision takes it`,
    );
  }
}

/** How the constants of one and the same model differ; "" if they do not. */
function constantFault(theirs: Identity, ours: Identity): string {
  const here = ours.constants;
  const there = new Map(
    [...theirs.constants].map(([name, mark]) => [
      name,
      mark === here.get(name) ? mark : respelled(mark),
    ]),
  );
  const same =
    there.size === here.size && [...there].every(([name, mark]) => here.get(name) === mark);
  if (same || (!there.size && theirs.bundleId === ours.bundleId)) return "";
  for (const [name, mark] of there) {
    const own = here.get(name);
    if (own !== undefined && own !== mark) {
      return `constant ${name} is ${own} here, the state was made with ${mark}`;
    }
  }
  // That the models differ says more than a constant that one of them does not have.
  return theirs.modelId === ours.modelId
    ? "the state tells other constants than this model has"
    : "";
}
