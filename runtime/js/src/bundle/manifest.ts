// What a manifest says, as types, and the reader of its bytes.

import type { Dtype, TypedArray } from "../base/dtype.js";
import { DstError, fail, firstLine, shown } from "../base/errors.js";
import type { Hashing } from "../base/hashing.js";
import { canonical, type Json, type JsonObject, parseJson } from "../base/json.js";
import type { Shape } from "../base/shapes.js";
import { constantValues } from "./constants.js";
import { checkSchema } from "./schema.js";
import { checkRules } from "./validation.js";

export interface Tokens {
  kind: "tokens";
  vocabulary: number;
  tokenizer: "bytes" | "tokenizers" | "none";
}

export interface Features {
  kind: "features";
  names: string[];
  sampleRateHz: number | null;
  normalisation: { mean: number[]; std: number[] } | null;
}

export interface Chunk {
  input: string;
  dtype: Dtype;
  shape: Shape;
  nominalT: number;
  allowedT: number[];
  content: Tokens | Features;
  lookback: number;
  lookbackFill: number | null;
  lookahead: number;
  tail: "exact" | "pad" | "refuse";
  padValue: number | null;
  causal: boolean;
}

export interface Constant {
  input: string;
  dtype: Dtype;
  shape: number[];
  values: TypedArray;
}

export interface StreamInput {
  input: string;
  dtype: Dtype;
  shape: Shape;
}

export interface Output {
  name: string;
  dtype: Dtype;
  shape: Shape;
  meaning: "logits" | "gaussian" | "quantiles" | "custom";
  levels: number[];
}

export interface State {
  input: string;
  output: string;
  dtype: Dtype;
  shape: Shape;
  /** The value it starts with, or the name of the stored tensor that it starts with. */
  init: { fill: number } | { tensor: string };
}

export interface Graph {
  file: string;
  lowering: "fused" | "portable" | "other";
  allowedT: number[];
  batch: number[];
  minOrt: string;
  goldenTolerance: number;
  answers: string | null;
}

export interface Golden {
  file: string;
  t: number;
  steps: number;
}

export interface FileEntry {
  sha256: string;
  size: number;
}

export interface Contract {
  chunk: Chunk;
  constants: Constant[];
  streamInputs: StreamInput[];
  outputs: Output[];
  state: State[];
}

/** What a reader uses of a manifest; `json` is all of it. */
export interface Manifest {
  name: string;
  description: string;
  modelId: string;
  bundleId: string;
  stateHash: string;
  upgradedFrom: string | null;
  precision: string;
  weightsBytes: number;
  contract: Contract;
  graphs: Graph[];
  golden: Golden[];
  files: Map<string, FileEntry>;
  json: JsonObject;
}

/**
 * Read the bytes of manifest.json and check every rule that needs no other file.
 *
 * Throws DstError with the codes of FORMAT.md, section 9.
 */
export async function decodeManifest(bytes: Uint8Array, hashing: Hashing): Promise<Manifest> {
  const json = parsed(bytes);
  const sparse = wellFormed(json);
  const text = canonical(json);
  const utf8 = new TextEncoder();
  if (!sparse || !sameBytes(utf8.encode(text), bytes)) {
    fail(
      "manifest-not-canonical",
      "manifest.json: the bytes are not the canonical encoding of what they say; write it again with dst",
    );
  }
  const rest = new Map(json);
  rest.delete("bundle_id");
  if ((await hashing.sha256([utf8.encode(canonical(rest))])) !== json.get("bundle_id")) {
    fail("bundle-id", "manifest.json: bundle_id is not the hash of the bytes: it was altered");
  }
  const manifest = manifestOf(json);
  checkRules(manifest);
  const tensors = utf8.encode(canonical(stateLayout(json)));
  if ((await hashing.sha256([tensors])) !== manifest.stateHash) {
    fail("state-hash", "manifest.json: state_hash is not the hash of the contract's state tensors");
  }
  return manifest;
}

function parsed(bytes: Uint8Array): JsonObject {
  try {
    const json = parseJson(bytes);
    if (json instanceof Map) return json;
    throw new Error("expected an object");
  } catch (error) {
    fail("manifest-invalid", `manifest.json: ${firstLine(error)}`);
  }
}

/** Whether the fields are right and no default is told; the version is looked at before all else. */
function wellFormed(json: JsonObject): boolean {
  const format = json.get("format");
  const version = json.get("format_version");
  if (typeof format !== "string" || typeof version !== "bigint") {
    fail("manifest-invalid", "manifest.json: it does not tell its format and version");
  }
  if (format !== "dst-bundle" || version !== 2n) {
    const found = shown(`${format} version ${version}`);
    fail("format-version", `manifest.json: is ${found}; this runtime reads dst-bundle version 2`);
  }
  try {
    return checkSchema(json);
  } catch (error) {
    if (error instanceof DstError) throw error;
    fail("manifest-invalid", `manifest.json: ${firstLine(error)}`);
  }
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** The state's layout as it is hashed: every field of every tensor, defaults spelled out. */
function stateLayout(json: JsonObject): Json[] {
  const tensors = (json.get("contract") as JsonObject).get("state") as JsonObject[];
  return tensors.map((state) => {
    const shape = state.get("shape") as Json[];
    return new Map<string, Json>([
      ["batch_axis", BigInt(shape.indexOf("B"))],
      ["init", new Map([["kind", "zeros"]])],
      ["role", "memory"],
      ...state,
    ]);
  });
}

// --- from JSON whose fields are right

type Held<T> = T extends number ? bigint | number : T;

/** A field, or its default. */
function field<T extends Json>(json: JsonObject, name: string, fallback?: T): T {
  return (json.get(name) ?? fallback ?? null) as T;
}

/** Numbers and integers of a manifest as numbers. */
const plain = (value: Held<number>): number => Number(value);
const plainOrNull = (value: Held<number> | null) => (value === null ? null : Number(value));
const integers = (json: JsonObject, name: string) => field<bigint[]>(json, name, []).map(plain);
const shapeOf = (json: JsonObject) =>
  field<(bigint | string)[]>(json, "shape").map((axis) =>
    typeof axis === "bigint" ? Number(axis) : axis,
  ) as unknown as Shape;

function manifestOf(json: JsonObject): Manifest {
  const contract = field<JsonObject>(json, "contract");
  const each = <T>(held: JsonObject, name: string, read: (one: JsonObject) => T): T[] =>
    field<JsonObject[]>(held, name, []).map(read);
  const files = [...field<JsonObject>(json, "files", new Map())].map(
    ([name, entry]): [string, FileEntry] => [
      name,
      {
        sha256: field(entry as JsonObject, "sha256"),
        size: plain(field(entry as JsonObject, "size")),
      },
    ],
  );
  return {
    name: field(json, "name"),
    description: field(json, "description", ""),
    modelId: field(json, "model_id"),
    bundleId: field(json, "bundle_id", ""),
    stateHash: field(json, "state_hash", ""),
    upgradedFrom: field(json, "upgraded_from"),
    precision: field(json, "precision", "float32"),
    weightsBytes: plain(field(json, "weights_bytes")),
    contract: {
      chunk: chunkOf(field(contract, "chunk")),
      constants: each(contract, "constants", constantOf),
      streamInputs: each(contract, "stream_inputs", (one) => ({
        input: field(one, "input"),
        dtype: field(one, "dtype"),
        shape: shapeOf(one),
      })),
      outputs: each(contract, "outputs", (one) => ({
        name: field(one, "name"),
        dtype: field(one, "dtype"),
        shape: shapeOf(one),
        meaning: field(one, "meaning", "custom"),
        levels: field<number[]>(one, "levels", []),
      })),
      state: each(contract, "state", stateOf),
    },
    graphs: each(json, "graphs", (one) => ({
      file: field(one, "file"),
      lowering: field(one, "lowering", "other"),
      allowedT: integers(one, "allowed_t"),
      batch: integers(one, "batch"),
      minOrt: field(one, "min_ort"),
      goldenTolerance: field(one, "golden_tolerance"),
      answers: field(one, "answers"),
    })),
    golden: each(json, "golden", (one) => ({
      file: field(one, "file"),
      t: plain(field(one, "t")),
      steps: plain(field(one, "steps")),
    })),
    files: new Map(files),
    json,
  };
}

function chunkOf(json: JsonObject): Chunk {
  const content = field<JsonObject>(json, "content");
  const scale = field<JsonObject>(content, "normalisation");
  return {
    input: field(json, "input"),
    dtype: field(json, "dtype"),
    shape: shapeOf(json),
    nominalT: plain(field(json, "nominal_t")),
    allowedT: integers(json, "allowed_t"),
    content:
      content.get("kind") === "tokens"
        ? {
            kind: "tokens",
            vocabulary: plain(field(content, "vocabulary")),
            tokenizer: field(content, "tokenizer", "none"),
          }
        : {
            kind: "features",
            names: field<string[]>(content, "names", []),
            sampleRateHz: plainOrNull(field(content, "sample_rate_hz")),
            normalisation: scale && { mean: field(scale, "mean"), std: field(scale, "std") },
          },
    lookback: plain(field(json, "lookback", 0n)),
    lookbackFill: plainOrNull(field(json, "lookback_fill")),
    lookahead: plain(field(json, "lookahead", 0n)),
    tail: field(json, "tail", "exact"),
    padValue: plainOrNull(field(json, "pad_value")),
    causal: field(json, "causal", true),
  };
}

function stateOf(json: JsonObject): State {
  const init = field<JsonObject>(json, "init", new Map());
  const tensor = field<string>(init, "tensor");
  return {
    input: field(json, "input"),
    output: field(json, "output"),
    dtype: field(json, "dtype"),
    shape: shapeOf(json),
    init: tensor === null ? { fill: plain(field(init, "value", 0)) } : { tensor },
  };
}

/** A constant; its values are made later, when the rules say that they fit its dtype. */
function constantOf(json: JsonObject): Constant {
  const dtype = field<Dtype>(json, "dtype");
  const values = field<(bigint | number)[]>(json, "values");
  const input = field<string>(json, "input");
  let made: TypedArray | undefined;
  return {
    input,
    dtype,
    shape: integers(json, "shape"),
    get values() {
      made ??= constantValues(dtype, values);
      return made;
    },
  };
}
