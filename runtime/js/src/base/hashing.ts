// SHA-256 and XXH3 of 128 bits, by hash-wasm.

import { createSHA256, createXXHash128 } from "hash-wasm";

/** Bytes that follow each other. */
export type Parts = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/**
 * The two hashes of the format, as lower-case hex.
 *
 * The default runs WebAssembly. Where there is none (React Native's Hermes), give a session two
 * functions of a native module.
 */
export interface Hashing {
  sha256(parts: Parts): Promise<string>;
  /** XXH3, 128 bits, seed 0, in its canonical form. */
  xxh3(parts: Parts): Promise<string>;
}

export const hashWasm: Hashing = {
  sha256: (parts) => digest(createSHA256, parts),
  xxh3: (parts) => digest(createXXHash128, parts),
};

async function digest(create: typeof createSHA256, parts: Parts): Promise<string> {
  const hasher = await create(); // a new one each time: two calls may overlap
  hasher.init();
  for await (const part of parts) hasher.update(part);
  return hasher.digest("hex");
}
