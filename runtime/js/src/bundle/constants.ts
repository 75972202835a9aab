// The values of constants, and the marks by which a saved state tells them.

import {
  allFinite,
  bytesOf,
  type Dtype,
  fillWith,
  fromHalf,
  newValues,
  type TypedArray,
} from "../base/dtype.js";
import type { Hashing } from "../base/hashing.js";
import { type Json, narrowText, numberText, parseJson } from "../base/json.js";
import { spelled } from "../base/shapes.js";
import type { Constant } from "./manifest.js";

/** The values of a constant in its dtype. */
export function constantValues(dtype: Dtype, values: (bigint | number)[]): TypedArray {
  const data = newValues(dtype, values.length);
  values.forEach((value, i) => {
    if (data instanceof BigInt64Array && typeof value === "bigint") data[i] = value;
    else fillWith(dtype, data.subarray(i, i + 1), Number(value));
  });
  return data;
}

/** The line that tells a constant from another one (FORMAT.md, section 2). */
export async function constantMark(constant: Constant, hashing: Hashing): Promise<string> {
  const { dtype, shape, values } = constant;
  let text: string;
  if (values.length > 8) {
    text = `sha256 ${(await hashing.sha256([bytesOf(values)])).slice(0, 32)}`;
  } else {
    const spelledValues = Array.from(values as ArrayLike<number | bigint>, (value) =>
      valueText(dtype, value),
    );
    text = spelledValues.join(", ");
    if (values.length !== 1) text = `[${text}]`;
  }
  return `${dtype} ${spelled(shape)} ${text}`;
}

/** A mark as `constantMark` spells it; as it is where it tells no floats. */
export function respelled(mark: string): string {
  const [, head, dtype, text] = /^((float16|float32|float64) [^\]]*\] )(.*)$/s.exec(mark) ?? [];
  if (head === undefined) return mark;
  let told: Json;
  try {
    told = parseJson(new TextEncoder().encode(text));
  } catch {
    return mark; // the digest of many values, or no mark at all
  }
  const values: string[] = [];
  for (const one of Array.isArray(told) ? told : [told]) {
    if (typeof one !== "number" && typeof one !== "bigint") return mark;
    const held = constantValues(dtype as Dtype, [Number(one)]);
    if (!allFinite(dtype as Dtype, held)) return mark;
    values.push(valueText(dtype as Dtype, held[0]!));
  }
  return head + (Array.isArray(told) ? `[${values.join(", ")}]` : values.join());
}

function valueText(dtype: Dtype, value: number | bigint): string {
  switch (dtype) {
    case "float16":
      return narrowText(fromHalf(Number(value)), dtype);
    case "float32":
      return narrowText(Number(value), dtype);
    case "float64":
      return numberText(Number(value));
    case "bool":
      return value ? "True" : "False";
    default:
      return String(value);
  }
}
