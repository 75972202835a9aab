// Read a first part, save, and read a second part; or load a saved state and read the second part.
//
// A test makes two runtimes do one half each, and compares what comes out.

import { bytesOf, valuesOf } from "../src/base/dtype.js";
import { type Ort, Session, type SessionOptions, type Source, Stream } from "../src/index.js";

export interface Job {
  /** A saved state to go on from; else the first part is read from the start. */
  state?: Uint8Array | undefined;
  /** Items in the chunk's dtype, as bytes. */
  first: Uint8Array;
  second: Uint8Array;
}

export interface Done {
  /** The state between the two parts. */
  state: Uint8Array;
  /** The bytes of each output of the second part, and of its flush. */
  outputs: Record<string, Uint8Array>;
}

export async function carryOn(
  ort: Ort,
  source: Source,
  options: SessionOptions,
  { state, first, second }: Job,
): Promise<Done> {
  const session = await Session.open(ort, source, options);
  const { dtype } = session.contract.chunk;
  const stream = state ? await Stream.fromBytes(session, state) : session.stream();
  if (!state) await stream.advance(valuesOf(dtype, first));
  const between = await stream.toBytes();
  const outputs: Record<string, Uint8Array> = {};
  const parts = [await stream.advance(valuesOf(dtype, second)), await stream.flush()];
  for (const [i, part] of parts.entries()) {
    for (const [name, { data }] of Object.entries(part)) outputs[`${i}/${name}`] = bytesOf(data);
  }
  await session.close();
  return { state: between, outputs };
}

export function toText(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 2 ** 15) {
    text += String.fromCharCode(...bytes.subarray(at, at + 2 ** 15));
  }
  return btoa(text);
}

export function fromText(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
