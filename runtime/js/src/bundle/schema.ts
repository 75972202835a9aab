// The tables of FORMAT.md, sections 3 to 5: which fields a manifest has, their types and defaults.

import { DTYPES } from "../base/dtype.js";
import { isName, type Json } from "../base/json.js";

/** What a check learns on its way. `sparse` turns false where a default is told. */
interface Walk {
  sparse: boolean;
}

type Check = (walk: Walk, path: string, value: Json) => void;
/** A field's check and, where it may be left out, its default. */
type Field = [check: Check, fallback?: Json];

const MAX_INT64 = 2n ** 63n - 1n;
const MAX_INT32 = 2n ** 31n - 1n;

/**
 * Throws Error with a line where a field is missing, unknown or of another type. Returns false where
 * a field tells its default, or a number is spelled as an integer: not canonical, but valid.
 */
export function checkSchema(manifest: Json): boolean {
  const walk = { sparse: true };
  MANIFEST(walk, "manifest", manifest);
  return walk.sparse;
}

function refuse(path: string, what: string): never {
  throw new Error(`${path}: ${what}`);
}

// --- kinds of values

function text(least = 0, most = Number.POSITIVE_INFINITY): Check {
  return (_, path, value) => {
    if (typeof value !== "string") refuse(path, "expected a text");
    const count = [...value].length;
    if (count < least || count > most) refuse(path, `a text of ${count} characters`);
  };
}

function matching(pattern: RegExp): Check {
  return (_, path, value) => {
    if (typeof value !== "string" || !pattern.test(value)) refuse(path, "not of its form");
  };
}

function whole(least: bigint, most: bigint): Check {
  return (_, path, value) => {
    if (typeof value !== "bigint") refuse(path, "expected an integer");
    if (value < least || value > most) refuse(path, `${value} is not in ${least} .. ${most}`);
  };
}

const number: Check = (walk, path, value) => {
  if (typeof value === "bigint") walk.sparse = false;
  else if (typeof value !== "number") refuse(path, "expected a number");
};

const flag: Check = (_, path, value) => {
  if (typeof value !== "boolean") refuse(path, "expected true or false");
};

function oneOf(...words: string[]): Check {
  return (_, path, value) => {
    if (!words.includes(value as string)) refuse(path, `expected one of ${words.join(", ")}`);
  };
}

function orNull(check: Check): Check {
  return (walk, path, value) => {
    if (value !== null) check(walk, path, value);
  };
}

function list(check: Check, most = Number.POSITIVE_INFINITY): Check {
  return (walk, path, value) => {
    if (!Array.isArray(value)) refuse(path, "expected a list");
    if (value.length > most) refuse(path, `a list of more than ${most} values`);
    value.forEach((held, i) => {
      check(walk, `${path}[${i}]`, held);
    });
  };
}

function map(key: Check, check: Check): Check {
  return (walk, path, value) => {
    if (!(value instanceof Map)) refuse(path, "expected an object");
    for (const [name, held] of value) {
      key(walk, path, name);
      check(walk, `${path}.${name}`, held);
    }
  };
}

function object(fields: Record<string, Field>): Check {
  return (walk, path, value) => {
    if (!(value instanceof Map)) refuse(path, "expected an object");
    for (const name of value.keys()) {
      if (!Object.hasOwn(fields, name)) refuse(`${path}.${name}`, "no such field");
    }
    for (const [name, [check, fallback]] of Object.entries(fields)) {
      const held = value.get(name);
      if (held === undefined) {
        if (fallback === undefined) refuse(`${path}.${name}`, "is missing");
        continue;
      }
      check(walk, `${path}.${name}`, held);
      if (fallback !== undefined && same(held, fallback)) walk.sparse = false;
    }
  };
}

/** An object whose `kind` says which fields it has. */
function tagged(kinds: Record<string, Record<string, Field>>): Check {
  const checks = new Map(
    Object.entries(kinds).map(([kind, fields]) => [kind, object({ kind: [text()], ...fields })]),
  );
  return (walk, path, value) => {
    if (!(value instanceof Map)) refuse(path, "expected an object");
    const check = checks.get(value.get("kind") as string);
    if (!check) refuse(`${path}.kind`, `expected one of ${[...checks.keys()].join(", ")}`);
    check(walk, path, value);
  };
}

/** Whether a value is a default, which is never a full list. */
function same(a: Json, b: Json): boolean {
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((held, i) => same(held, b[i]!));
  }
  if (a instanceof Map && b instanceof Map) {
    return a.size === b.size && [...a].every(([name, held]) => same(held, b.get(name) ?? null));
  }
  return a === b;
}

// --- the tables

const name: Check = (_, path, value) => {
  if (typeof value !== "string" || !isName(value)) refuse(path, "expected a name");
};
const any = text();
const hash = matching(/^[0-9a-f]{64}$/);
const count = whole(0n, MAX_INT64);
const positive = whole(1n, MAX_INT32);
const integer = whole(-(2n ** 63n), MAX_INT64);
const numbers = list(number);
const dtype = oneOf(...DTYPES);

// Which letters may stand in a shape is a rule of the contract, with a code of its own.
const shape = list((walk, path, value) => {
  if (typeof value !== "string") whole(-(2n ** 63n), MAX_INT32)(walk, path, value);
}, 16);

const constantValue: Check = (walk, path, value) => {
  if (typeof value !== "number") integer(walk, path, value);
};

const normalisation = object({ mean: [numbers], std: [numbers] });

const content = tagged({
  tokens: {
    vocabulary: [positive],
    tokenizer: [oneOf("bytes", "tokenizers", "none"), "none"],
  },
  features: {
    names: [list(name), []],
    sample_rate_hz: [orNull(number), null],
    normalisation: [orNull(normalisation), null],
  },
});

const chunk = object({
  input: [name],
  dtype: [dtype],
  shape: [shape],
  nominal_t: [positive],
  allowed_t: [list(positive)],
  content: [content],
  lookback: [count, 0n],
  lookback_fill: [orNull(number), null],
  lookahead: [count, 0n],
  tail: [oneOf("exact", "pad", "refuse"), "exact"],
  pad_value: [orNull(number), null],
  causal: [flag, true],
});

const constant = object({
  input: [name],
  dtype: [dtype],
  shape: [list(count, 16)],
  values: [list(constantValue)],
});

const streamInput = object({ input: [name], dtype: [dtype], shape: [shape] });

const output = object({
  name: [name],
  dtype: [dtype],
  shape: [shape],
  meaning: [oneOf("logits", "gaussian", "quantiles", "custom"), "custom"],
  levels: [numbers, []],
});

const init = tagged({ zeros: {}, fill: { value: [number] }, stored: { tensor: [name] } });

const state = object({
  input: [name],
  output: [name],
  dtype: [dtype],
  shape: [shape],
  init: [init, new Map([["kind", "zeros"]])],
  role: [oneOf("memory", "window", "conv", "counter"), "memory"],
});

const contract = object({
  chunk: [chunk],
  constants: [list(constant), []],
  stream_inputs: [list(streamInput), []],
  outputs: [list(output)],
  state: [list(state)],
});

const graph = object({
  file: [name],
  lowering: [oneOf("fused", "portable", "other"), "other"],
  allowed_t: [list(positive)],
  batch: [list(positive), []],
  opsets: [map(name, positive)],
  domains: [list(name), ["ai.onnx"]],
  min_ort: [matching(/^[0-9]{1,6}(\.[0-9]{1,6}){1,2}$/)],
  golden_tolerance: [number],
  multiply_adds: [map(text(1, 500), count), new Map()],
  answers: [orNull(name), null],
});

const golden = object({ file: [name], t: [positive], steps: [positive] });

const curve = object({ steps: [list(count)], tensors: [map(name, numbers)] });

const certificate = object({
  name: [name],
  steps: [positive],
  items_per_step: [positive],
  data: [any],
  bound: [number],
  decile_ratio_bound: [number],
  passed: [flag],
  curve: [curve],
  worst: [number],
  worst_state: [number],
  worst_state_of_peak: [number],
  decile_ratio: [number],
});

const gate = object({
  name: [name],
  value: [orNull(number), null],
  bound: [number],
  verdict: [oneOf("passed", "failed", "not judged")],
});

const quality = object({
  full: [hash],
  items: [positive],
  items_per_step: [positive],
  data: [any],
  unit: [oneOf("nats", "relative")],
  positions: [list(count)],
  divergence: [numbers],
  loss_difference: [orNull(numbers), null],
  state_distance: [list(orNull(number))],
  causal: [flag],
  gates: [list(gate)],
  passed: [orNull(flag), null],
});

const MANIFEST = object({
  format: [any],
  format_version: [integer],
  // Absent or wrong, the two computed hashes are found out by codes of their own.
  bundle_id: [any, ""],
  state_hash: [any, ""],
  model_id: [hash],
  upgraded_from: [orNull(hash), null],
  name: [name],
  description: [any, ""],
  license: [any, ""],
  precision: [name, "float32"],
  recipe: [orNull(any), null],
  producer: [object({ name: [name], version: [any] })],
  contract: [contract],
  graphs: [list(graph)],
  golden: [list(golden), []],
  certificates: [list(certificate), []],
  horizon: [object({ half_life_items: [orNull(number), null] }), new Map()],
  weights_bytes: [count],
  quality: [orNull(quality), null],
  files: [map(name, object({ sha256: [hash], size: [count] })), new Map()],
});
