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

export function toOrt(ort: Ort, { dtype, data, shape }: Values): OrtTensor {
  return new ort.Tensor(dtype, data as never, shape);
}

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
