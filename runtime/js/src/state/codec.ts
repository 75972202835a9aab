// The bytes of a saved state (FORMAT.md, section 6), from a snapshot and back.

import { bytesOf, codeOf, itemSize, type Tensor } from "../base/dtype.js";
import { fail, firstLine } from "../base/errors.js";
import type { Hashing } from "../base/hashing.js";
import {
  byCodePoint,
  canonical,
  isName,
  type Json,
  type JsonObject,
  parseJson,
  quoted,
} from "../base/json.js";
import { readTensors } from "../bundle/safetensors.js";
import type { Identity } from "../execution/engine.js";
import type { Snapshot } from "./record.js";
import type { Sampler } from "./sampler.js";

const OPENING = '{"__metadata__":{"checksum":"';
const SUM_AT = 8 + OPENING.length;
const SUM_SIZE = 32;
const MAX_BYTES = 2 ** 33;
const BLANK = new TextEncoder().encode("0".repeat(SUM_SIZE));
const VERSION_1 = /^[0-9a-f]{64}","format":"dst-state","version":"1"/;
const HASH = /^[0-9a-f]{64}$/;
const DECIMAL = /^(0|[1-9][0-9]{0,19})$/;
const MAX_COUNT = 2n ** 63n - 1n; // no stream gets so far
const MAX_SEED = 2n ** 64n - 1n;
const FIELDS = [
  "checksum",
  "format",
  "version",
  "model_id",
  "state_hash",
  "bundle_id",
  "precision",
  "items_consumed",
  "seed",
  "draws",
];

/** Throws DstError, `state-numbers`: a counter has passed what a state can tell. */
export async function pack(snapshot: Snapshot, hashing: Hashing): Promise<Uint8Array> {
  if (snapshot.items > MAX_COUNT || (snapshot.sampler?.draws ?? 0n) > MAX_COUNT) {
    fail("state-numbers", `a counter has passed ${MAX_COUNT}; reset the stream`);
  }
  const tensors = [...snapshot.tensors].sort(
    ([a, one], [b, other]) => itemSize(other.dtype) - itemSize(one.dtype) || byCodePoint(a, b),
  );
  const head = new TextEncoder().encode(header(snapshot, tensors));
  const bytes = new Uint8Array(
    8 + head.length + tensors.reduce((sum, [, { data }]) => sum + data.byteLength, 0),
  );
  new DataView(bytes.buffer).setBigUint64(0, BigInt(head.length), true);
  bytes.set(head, 8);
  let at = 8 + head.length;
  for (const [, { data }] of tensors) {
    bytes.set(bytesOf(data), at);
    at += data.byteLength;
  }
  bytes.set(new TextEncoder().encode(await checksum(bytes, hashing)), SUM_AT);
  return bytes;
}

function header({ identity, items, sampler }: Snapshot, tensors: [string, Tensor][]): string {
  const told: [string, string][] = [
    ["format", "dst-state"],
    ["version", "2"],
    ["model_id", identity.modelId],
    ["state_hash", identity.stateHash],
    ["bundle_id", identity.bundleId],
    ["precision", identity.precision],
    ["items_consumed", String(items)],
    ["seed", String(sampler?.seed ?? "")],
    ["draws", String(sampler?.draws ?? 0)],
  ];
  if (identity.constants.size) told.push(["constants", canonical(identity.constants)]);
  let text = OPENING + "0".repeat(SUM_SIZE);
  for (const [name, value] of told)
    text += `${name === "format" ? '"' : ""},"${name}":${quoted(value)}`;
  text += "}";
  let end = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    const begin = end;
    end += data.byteLength;
    text += `,${quoted(name)}:{"dtype":"${codeOf(dtype)}","shape":[${shape}],"data_offsets":[${begin},${end}]}`;
  }
  text += "}";
  const size = new TextEncoder().encode(text).length;
  return text + " ".repeat((8 - (size % 8)) % 8);
}

/** XXH3 of a whole file with the places of its own checksum read as zeros. */
function checksum(bytes: Uint8Array, hashing: Hashing): Promise<string> {
  return hashing.xxh3([bytes.subarray(0, SUM_AT), BLANK, bytes.subarray(SUM_AT + SUM_SIZE)]);
}

/**
 * Read the bytes of a saved state, which the snapshot keeps.
 *
 * Throws DstError: `state-header`, `state-checksum`, `state-version`, `state-too-large`.
 */
export async function unpack(bytes: Uint8Array, hashing: Hashing): Promise<Snapshot> {
  const text = (from: number, size: number) =>
    String.fromCharCode(...bytes.subarray(from, Math.min(bytes.length, from + size)));
  if (bytes.length > MAX_BYTES) {
    fail("state-too-large", `a saved state has at most ${MAX_BYTES} bytes, this has more`);
  }
  if (text(8, OPENING.length) !== OPENING) {
    fail("state-header", "it is no saved state, or its beginning was altered");
  }
  // The checksum comes before anything that the header says is believed.
  if ((await checksum(bytes, hashing)) !== text(SUM_AT, SUM_SIZE)) {
    if (VERSION_1.test(text(SUM_AT, 128))) otherVersion(); // which had a SHA-256 here
    fail("state-checksum", "its bytes do not match its checksum");
  }
  try {
    const { metadata, tensors } = readTensors(bytes, checkHeader);
    checkNames(tensors);
    return { ...readMetadata(metadata as JsonObject), tensors };
  } catch (error) {
    if (error === OTHER_VERSION) otherVersion();
    fail("state-header", `its checksum holds but its content does not: ${firstLine(error)}`);
  }
}

const OTHER_VERSION = new Error("another version");

function otherVersion(): never {
  fail("state-version", "its format version is none that this runtime reads, which is 2");
}

/** Another version may describe its tensors in another way, so this comes first. */
function checkHeader(metadata: Json, tensors: JsonObject): void {
  if (!(metadata instanceof Map)) throw new Error("it has no metadata");
  const version = metadata.get("version") ?? null;
  if (version === null || (typeof version === "string" && version !== "2")) throw OTHER_VERSION;
  for (const [name, told] of tensors) {
    if (!(told instanceof Map) || told.size !== 3)
      throw new Error(`${name} is not described right`);
  }
}

function checkNames(tensors: Map<string, Tensor>): void {
  for (const name of tensors.keys()) {
    if (!/^(state\/|stream\/|pending$|lookback$)/.test(name)) {
      throw new Error(`it holds an unknown tensor ${name}`);
    }
  }
  for (const name of ["pending", "lookback"]) {
    if (!tensors.has(name)) throw new Error(`it has no tensor ${name}`);
  }
}

function readMetadata(json: JsonObject): {
  identity: Identity;
  items: bigint;
  sampler: Sampler | null;
} {
  for (const [name, value] of json) {
    if (typeof value !== "string") throw new Error(`${name} is no text`);
    if (!FIELDS.includes(name) && name !== "constants") throw new Error(`${name} is not known`);
  }
  const missing = FIELDS.find((name) => !json.has(name));
  if (missing) throw new Error(`${missing} is missing`);
  const text = (name: string) => json.get(name) as string;
  if (text("format") !== "dst-state") throw new Error("its format is not dst-state");
  for (const name of ["model_id", "state_hash", "bundle_id"]) {
    if (!HASH.test(text(name))) throw new Error(`${name} is no hash`);
  }
  if (!isName(text("precision"))) throw new Error("precision is no name");
  const draws = count("draws", text("draws"));
  return {
    identity: {
      modelId: text("model_id"),
      stateHash: text("state_hash"),
      bundleId: text("bundle_id"),
      precision: text("precision"),
      constants: json.get("constants") ? readConstants(text("constants")) : new Map(),
    },
    items: count("items_consumed", text("items_consumed")),
    sampler: text("seed") ? { seed: count("seed", text("seed"), MAX_SEED), draws } : null,
  };
}

function count(name: string, text: string, most = MAX_COUNT): bigint {
  const value = DECIMAL.test(text) ? BigInt(text) : -1n;
  if (value < 0n || value > most) throw new Error(`${name} is no count`);
  return value;
}

function readConstants(text: string): Map<string, string> {
  const marks: Json = parseJson(new TextEncoder().encode(text));
  const good =
    marks instanceof Map &&
    marks.size > 0 &&
    [...marks.keys()].every(isName) &&
    canonical(marks) === text;
  if (!good || ![...marks.values()].every((mark) => typeof mark === "string")) {
    throw new Error("its constants are not in canonical form");
  }
  return marks as Map<string, string>;
}
