// What is used of ONNX Runtime, whichever of its packages it comes from.

import type {
  Env,
  InferenceSession,
  InferenceSessionFactory,
  Tensor,
  TensorConstructor,
} from "onnxruntime-common";
import {
  bytesOf,
  type Dtype,
  type TypedArray,
  type Tensor as Values,
  valuesOf,
} from "../base/dtype.js";

/**
 * The module `onnxruntime-web`, `onnxruntime-node` or `onnxruntime-react-native`.
 *
 * It is given and not imported: each package registers its backend in its own copy of
 * onnxruntime-common, so only the app knows which copy it runs.
 */
export interface Ort {
  readonly InferenceSession: InferenceSessionFactory;
  readonly Tensor: TensorConstructor;
  readonly env: Env;
}

export type OrtSession = InferenceSession;
export type OrtTensor = Tensor;

/** The version of the ONNX Runtime that runs graphs. */
export function ortVersion(ort: Ort): string {
  const { web, node, common, ...others } = ort.env.versions as Record<string, string | undefined>;
  return web ?? node ?? others["react-native"] ?? common ?? "0.0";
}

/** Whether version `a` is at least version `b`. */
export function atLeast(a: string, b: string): boolean {
  const [here, wanted] = [a, b].map((text) => text.split(/[.-]/).slice(0, 3).map(Number));
  for (let i = 0; i < 3; i++) {
    const difference = (here![i] || 0) - (wanted![i] || 0);
    if (difference) return difference > 0;
  }
  return true;
}

/**
 * A tensor to feed.
 *
 * From Node 23 on float16 would be held as a Float16Array, in which onnxruntime-node sees no bytes
 * (github.com/microsoft/onnxruntime/pull/32323): there the tensor holds bits and is named float16.
 */
export function toOrt(ort: Ort, { dtype, data, shape }: Values): OrtTensor {
  if (!asBits(ort, dtype)) return new ort.Tensor(dtype, data as never, shape);
  return Object.assign(new ort.Tensor("uint16", data as never, shape), { type: dtype });
}

/** What a step has given, to feed to the next one. */
export function fedBack(ort: Ort, tensor: OrtTensor): OrtTensor {
  const { dims, type } = tensor;
  if (!asBits(ort, type)) return tensor;
  return toOrt(ort, { dtype: "float16", data: valuesIn(tensor, "float16"), shape: [...dims] });
}

const asBits = (ort: Ort, type: string) =>
  type === "float16" && ort.env.versions.node !== undefined;

/** The values of a tensor that lies in this memory. */
export function valuesIn(tensor: OrtTensor, dtype: Dtype): TypedArray {
  return typed(tensor.data, dtype);
}

/** The same, fetched from a device where it lies there. It then lies here. */
export async function fetchValues(tensor: OrtTensor, dtype: Dtype): Promise<TypedArray> {
  return typed(tensor.location === "cpu" ? tensor.data : await tensor.getData(true), dtype);
}

/** float16 comes as a Float16Array where the engine has that; here it is bits. */
function typed(data: OrtTensor["data"], dtype: Dtype): TypedArray {
  const values = data as TypedArray;
  return dtype === "float16" ? valuesOf(dtype, bytesOf(values)) : values;
}

const runs = { last: Promise.resolve() as Promise<unknown> };

/**
 * Do one thing with ONNX Runtime after the other.
 *
 * onnxruntime-web takes one call at a time, over all sessions of a page or worker; the others run on
 * one thread anyway.
 */
export function oneByOne<Result>(work: () => Promise<Result>): Promise<Result> {
  const result = runs.last.then(work, work);
  runs.last = result.catch(() => undefined);
  return result;
}
