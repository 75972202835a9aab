// The rules between the fields of a manifest (FORMAT.md, sections 1, 3, 4 and 5).

import { type Dtype, isFloat, normalisedIn, range } from "../base/dtype.js";
import { fail, shown } from "../base/errors.js";
import type { Json, JsonObject } from "../base/json.js";
import { fixedAxes, product, type Shape } from "../base/shapes.js";
import type { Chunk, Manifest, Output, State } from "./manifest.js";

export const MANIFEST_FILE = "manifest.json";
export const INIT_FILE = "init.safetensors";
export const TOKENIZER_FILE = "tokenizer.json";
export const MAX_MANIFEST_BYTES = 2 ** 24;
export const MAX_STREAM_BYTES = 2 ** 32;
const MAX_TENSOR_FILE_BYTES = 2 ** 30;

const PLAIN_NAME = /^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9_-])?$/;
const DEVICE_NAME = /^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)/i;

/** Whether a name may be one of a bundle's files. */
export function plainName(name: string): boolean {
  return PLAIN_NAME.test(name) && !DEVICE_NAME.test(name) && name.toLowerCase() !== MANIFEST_FILE;
}

/** Throws DstError: `contract`, `path-outside` or `file-too-large`. */
export function checkRules(manifest: Manifest): void {
  const { contract, files } = manifest;
  checkContract(manifest);
  for (const name of files.keys()) {
    if (!plainName(name)) {
      fail(
        "path-outside",
        `manifest.json: files lists ${shown(name)}, which is no plain file name`,
      );
    }
  }
  unique(
    "file (letter case aside)",
    [...files.keys()].map((name) => name.toLowerCase()),
  );
  checkSizes(manifest);
  checkGraphs(manifest);
  checkRecords(manifest);
  checkQuality(manifest);
  const halfLife = (manifest.json.get("horizon") as JsonObject | undefined)?.get("half_life_items");
  if (typeof halfLife === "number" && halfLife <= 0)
    refuse("horizon.half_life_items is not positive");
  if (contract.state.some((state) => "tensor" in state.init) && !files.has(INIT_FILE)) {
    refuse(`a state tensor is stored, and ${INIT_FILE} is not listed`);
  }
  const { content } = contract.chunk;
  if (
    content.kind === "tokens" &&
    content.tokenizer === "tokenizers" &&
    !files.has(TOKENIZER_FILE)
  ) {
    refuse(`the tokenizer is \`tokenizers\`, and ${TOKENIZER_FILE} is not listed`);
  }
}

function refuse(what: string): never {
  fail("contract", `manifest.json: ${shown(what)}`);
}

function unique(what: string, names: string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) refuse(`${what} ${twice} is named twice`);
}

const rises = (values: number[]) => values.every((value, i) => i === 0 || values[i - 1]! < value);

/** Each letter stands once where it must, at most once where it may, and all else is a size. */
function checkLetters(where: string, shape: Shape, must: string, may = ""): void {
  const times = (letter: string) => shape.filter((axis) => axis === letter).length;
  for (const letter of must) {
    if (times(letter) !== 1) refuse(`${where}: the shape needs one "${letter}"`);
  }
  for (const axis of shape) {
    if (typeof axis === "number") {
      if (axis < 1) refuse(`${where}: an axis is ${axis}, expected 1 or more`);
    } else if (!axis || !(must + may).includes(axis) || times(axis) > 1) {
      refuse(`${where}: "${axis}" may not stand in the shape, or not twice`);
    }
  }
}

function checkFits(where: string, dtype: Dtype, value: number): void {
  const [least, most] = range(dtype);
  if (!(value >= least && value <= most) || (dtype === "int64" && value >= most)) {
    refuse(`${where} is ${value}, out of the range of ${dtype}`);
  }
}

// --- the contract

function checkContract(manifest: Manifest): void {
  const { chunk, constants, streamInputs, outputs, state } = manifest.contract;
  checkChunk(chunk);
  const inputs = [chunk, ...constants, ...streamInputs, ...state].map((one) => one.input);
  unique("graph input", inputs);
  unique("graph output", [...outputs.map((one) => one.name), ...state.map((one) => one.output)]);
  if (!outputs.length) refuse("contract.outputs is empty");
  checkConstants(manifest);
  for (const one of streamInputs) checkLetters(`stream input ${one.input}`, one.shape, "", "B");
  outputs.forEach(checkOutput);
  state.forEach(checkState);
  for (const { answers } of manifest.graphs) {
    if (answers !== null) unique("graph input", [...inputs, answers]);
  }
}

function checkChunk(chunk: Chunk): void {
  const { allowedT, nominalT, tail } = chunk;
  checkLetters("chunk", chunk.shape, "BT");
  if (!allowedT.length) refuse("chunk.allowed_t is empty");
  if (!rises(allowedT)) refuse("chunk.allowed_t does not rise");
  if (!allowedT.includes(nominalT)) refuse(`chunk.nominal_t ${nominalT} is not in allowed_t`);
  if (tail === "exact") {
    if (!allowedT.includes(1)) refuse("the tail `exact` needs 1 in allowed_t");
    if (chunk.lookahead) refuse("the tail `exact` allows no look-ahead");
    if (!chunk.causal && allowedT.length > 1) {
      refuse("the tail is `exact`, causal is false, and several T are allowed");
    }
  }
  if ((chunk.padValue !== null) !== (tail === "pad")) {
    refuse("pad_value and the tail `pad` need each other");
  }
  if ((chunk.lookbackFill !== null) !== chunk.lookback > 0) {
    refuse("lookback_fill and lookback need each other");
  }
  const fills = [chunk.padValue, chunk.lookbackFill].filter((fill) => fill !== null);
  if (chunk.content.kind === "tokens") checkTokens(chunk, chunk.content.vocabulary, fills);
  else checkFeatures(chunk, fills);
}

function checkTokens(chunk: Chunk, vocabulary: number, fills: number[]): void {
  if (!["int64", "int32", "uint8"].includes(chunk.dtype)) {
    refuse(`tokens are int64, int32 or uint8, not ${chunk.dtype}`);
  }
  if (chunk.shape.length !== 2) refuse("tokens have a batch and a time axis only");
  if (chunk.content.kind === "tokens" && chunk.content.tokenizer === "bytes" && vocabulary < 256) {
    refuse("the tokenizer `bytes` needs a vocabulary of 256");
  }
  if (chunk.dtype === "uint8" && vocabulary > 256) refuse("the vocabulary exceeds uint8");
  for (const fill of fills) {
    if (!Number.isInteger(fill) || fill < 0 || fill >= vocabulary) {
      refuse(`the pad or lookback fill ${fill} is no token`);
    }
  }
}

function checkFeatures(chunk: Chunk, fills: number[]): void {
  if (chunk.content.kind !== "features") return;
  const { names, sampleRateHz, normalisation } = chunk.content;
  if (!isFloat(chunk.dtype)) refuse(`features are floats, not ${chunk.dtype}`);
  const axes = fixedAxes(chunk.shape);
  const count = product(axes);
  if (names.length && axes.length > 1) refuse("names label one axis besides B and T");
  if (names.length && names.length !== count) refuse("there are not as many names as features");
  unique("feature", names);
  if (sampleRateHz !== null && sampleRateHz <= 0) refuse("sample_rate_hz is not positive");
  if (normalisation) {
    for (const values of [normalisation.mean, normalisation.std]) {
      if (values.length !== count) refuse("normalisation has another number of values");
      for (const value of values) checkFits("normalisation", chunk.dtype, value);
    }
    const wide = normalisedIn(chunk.dtype) === "float64";
    // a tiny one is 0 in that dtype
    if (normalisation.std.some((value) => !((wide ? value : Math.fround(value)) > 0))) {
      refuse("normalisation.std is not above 0");
    }
  }
  for (const fill of fills) checkFits("the pad or lookback fill", chunk.dtype, fill);
}

function checkConstants(manifest: Manifest): void {
  const contract = manifest.json.get("contract") as JsonObject;
  const told = (contract.get("constants") ?? []) as JsonObject[];
  manifest.contract.constants.forEach(({ input, dtype, shape }, i) => {
    const where = `constant ${input}`;
    const values = told[i]!.get("values") as (bigint | number)[];
    if (product(shape) !== values.length) {
      refuse(`${where} has another number of values than its shape`);
    }
    for (const value of values) {
      if (typeof value === "number" && !isFloat(dtype)) refuse(`${where} holds a fraction`);
      if (dtype !== "int64" || typeof value !== "bigint") checkFits(where, dtype, Number(value));
    }
  });
}

function checkOutput({ name, dtype, shape, meaning, levels }: Output): void {
  const where = `output ${name}`;
  checkLetters(where, shape, "B", "T");
  if (meaning !== "custom" && !isFloat(dtype)) refuse(`${where}: expected floats, not ${dtype}`);
  if ((meaning === "quantiles") !== levels.length > 0) refuse(`${where}: levels are for quantiles`);
  if (levels.some((level) => !(level > 0 && level < 1))) {
    refuse(`${where}: a level is not in (0, 1)`);
  }
  if (levels.length && shape.at(-1) !== levels.length) {
    refuse(`${where}: the last axis has not as many places as there are levels`);
  }
}

function checkState({ input, dtype, shape, init }: State): void {
  const where = `state ${input}`;
  checkLetters(where, shape, "B");
  if (!("fill" in init)) return;
  checkFits(where, dtype, init.fill);
  if (!isFloat(dtype) && !Number.isInteger(init.fill))
    refuse(`${where} cannot start at a fraction`);
}

// --- sizes, graphs and records

function checkSizes({ contract, files, golden }: Manifest): void {
  const whole = [INIT_FILE, TOKENIZER_FILE, ...golden.map((one) => one.file)];
  const large = whole.find((name) => (files.get(name)?.size ?? 0) > MAX_TENSOR_FILE_BYTES);
  if (large) fail("file-too-large", `manifest.json: ${large} has more bytes than are read whole`);
  const { chunk, outputs, state, streamInputs } = contract;
  const longest = chunk.lookback + chunk.allowedT.at(-1)! + chunk.lookahead;
  let values = 0;
  for (const { shape } of [chunk, ...outputs, ...state, ...streamInputs]) {
    values += product(shape.map((axis) => (axis === "B" ? 1 : axis === "T" ? longest : axis)));
  }
  if (values * 8 > MAX_STREAM_BYTES) {
    fail("file-too-large", "manifest.json: the tensors of one stream have too many values");
  }
}

function checkGraphs({ contract, files, graphs, json }: Manifest): void {
  const { allowedT } = contract.chunk;
  if (!graphs.length) refuse("graphs is empty");
  unique(
    "graph file",
    graphs.map((graph) => graph.file),
  );
  const perItem = contract.outputs.some((output) => output.shape.includes("T"));
  const told = json.get("graphs") as JsonObject[];
  graphs.forEach((graph, i) => {
    const where = `graph ${graph.file}`;
    if (!files.has(graph.file)) refuse(`${where} is not listed in files`);
    if (!graph.allowedT.length) refuse(`${where} allows no T`);
    const odd = graph.allowedT.find((t) => !allowedT.includes(t));
    if (odd !== undefined) refuse(`${where}: T = ${odd} is not in chunk.allowed_t`);
    const opsets = told[i]!.get("opsets") as JsonObject;
    const domains = (told[i]!.get("domains") ?? ["ai.onnx"]) as string[];
    const lost = domains.find((domain) => !opsets.has(domain));
    if (lost !== undefined) refuse(`${where}: domain ${lost} has no opset`);
    if (!(graph.goldenTolerance >= 0)) refuse(`${where}: golden_tolerance is below 0`);
    if (graph.answers !== null && !perItem) refuse(`${where}: answers, and no output is per item`);
  });
  const missing = allowedT.find((t) => !graphs.some((graph) => graph.allowedT.includes(t)));
  if (missing !== undefined) refuse(`no graph runs T = ${missing}`);
}

function checkRecords({ contract, files, golden, json }: Manifest): void {
  golden.forEach(({ file, t }, i) => {
    if (!files.has(file)) refuse(`golden file ${file} is not listed`);
    if (!contract.chunk.allowedT.includes(t)) refuse(`golden T = ${t} is not in chunk.allowed_t`);
    if (golden.findIndex((one) => one.t === t) !== i) refuse(`golden has two entries for T = ${t}`);
  });
  for (const one of (json.get("certificates") ?? []) as JsonObject[]) {
    const curve = one.get("curve") as JsonObject;
    const count = (curve.get("steps") as Json[]).length;
    for (const values of (curve.get("tensors") as JsonObject).values()) {
      if ((values as Json[]).length !== count) {
        refuse("the curve of a certificate has another number of points than steps");
      }
    }
  }
}

function checkQuality({ json, precision }: Manifest): void {
  const quality = json.get("quality") as JsonObject | undefined;
  if (!quality) return;
  if (!json.has("recipe") && precision === "float32") {
    refuse("quality is given for full precision");
  }
  const positions = (quality.get("positions") as bigint[]).map(Number);
  if (!positions.length || positions[0]! < 1 || !rises(positions)) {
    refuse("quality.positions does not rise from 1 or more");
  }
  for (const name of ["divergence", "state_distance", "loss_difference"]) {
    const curve = quality.get(name) as Json[] | undefined;
    if (curve && curve.length !== positions.length) {
      refuse(`quality.${name} has another number of values than positions`);
    }
  }
  const verdicts = (quality.get("gates") as JsonObject[]).map((gate) => {
    const value = gate.get("value") as number | undefined;
    const held = value !== undefined && value <= (gate.get("bound") as number);
    const verdict = value === undefined ? "not judged" : held ? "passed" : "failed";
    if (gate.get("verdict") !== verdict)
      refuse("the verdict of a gate does not follow from its value");
    return verdict;
  });
  const open = verdicts.includes("not judged") ? null : true;
  if ((quality.get("passed") ?? null) !== (verdicts.includes("failed") ? false : open)) {
    refuse("quality.passed does not follow from its gates");
  }
}
