export type { Dtype, Tensor, TypedArray } from "./base/dtype.js";
export { DstError } from "./base/errors.js";
export type { Hashing } from "./base/hashing.js";
export type { Shape } from "./base/shapes.js";
export type { Bundle, Verify } from "./bundle/bundle.js";
export type {
  Chunk,
  Constant,
  Contract,
  Features,
  Graph,
  Manifest,
  Output,
  State,
  StreamInput,
  Tokens,
} from "./bundle/manifest.js";
export { readTensors } from "./bundle/safetensors.js";
export { fetchSource, memorySource, type Source } from "./bundle/source.js";
export type { Identity, Lowering } from "./execution/engine.js";
export type { Items } from "./execution/items.js";
export type { Ort } from "./execution/ort.js";
export type { Outputs } from "./execution/recurrence.js";
export type { GenerateOptions } from "./generation.js";
export { errorOf, type GoldenCheck, verify } from "./golden.js";
export { surpriseBits } from "./scoring.js";
export { Session, type SessionOptions, type StreamOptions } from "./session.js";
export type { Snapshot } from "./state/record.js";
export type { Sampler } from "./state/sampler.js";
export { IndexedDbStore } from "./stores/indexeddb.js";
export type { StateStore } from "./stores/store.js";
export { type LoadOptions, type ReadOptions, type StepOptions, Stream } from "./stream.js";
export {
  decodeBytes,
  encodeBytes,
  type HuggingFaceTokenizer,
  type HuggingFaceTokenizerClass,
  TextDecoderOfIds,
  TextTokenizer,
} from "./tokenizer.js";
