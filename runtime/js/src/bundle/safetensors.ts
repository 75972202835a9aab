// Read a safetensors file.

import { type Dtype, dtypeOfCode, itemSize, type Tensor, valuesOf } from "../base/dtype.js";
import { type Json, type JsonObject, parseJson } from "../base/json.js";
import { product } from "../base/shapes.js";

export interface TensorFile {
  metadata: Json;
  /** In the order in which they lie in the file. */
  tensors: Map<string, Tensor>;
}

/**
 * Read tensors that fill a file, one after the other without gaps.
 *
 * They are views into `bytes` where they are aligned there. `check` looks at the header before the
 * tensors are read. Throws Error with one line.
 */
export function readTensors(
  bytes: Uint8Array,
  check: (metadata: Json, tensors: JsonObject) => void = () => undefined,
): TensorFile {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 8) throw new Error("it ends too early");
  const length = view.getBigUint64(0, true);
  if (length > BigInt(bytes.length - 8)) throw new Error("its header ends behind the file");
  const body = 8 + Number(length);
  const header = parseJson(bytes.subarray(8, body));
  if (!(header instanceof Map)) throw new Error("its header is no object");
  const metadata = header.get("__metadata__") ?? null;
  header.delete("__metadata__");
  check(metadata, header);
  const spans = [...header].map(([name, told]) => spanOf(name, told));
  spans.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let end = 0;
  for (const span of spans) {
    if (span.begin !== end) throw new Error(`there is a gap before tensor ${span.name}`);
    end = span.end;
  }
  if (end !== bytes.length - body) throw new Error("its tensors do not fill it");
  const tensors = spans.map(({ name, dtype, shape, begin, end }): [string, Tensor] => {
    const data = valuesOf(dtype, bytes.subarray(body + begin, body + end));
    return [name, { dtype, shape, data }];
  });
  return { metadata, tensors: new Map(tensors) };
}

interface Span {
  name: string;
  dtype: Dtype;
  shape: number[];
  begin: number;
  end: number;
}

function spanOf(name: string, told: Json): Span {
  const fields: JsonObject = told instanceof Map ? told : new Map();
  const dtype = dtypeOfCode(String(fields.get("dtype")));
  const shape = counts(fields.get("shape"));
  const [begin, end, ...more] = counts(fields.get("data_offsets")) ?? [];
  if (!dtype || !shape || end === undefined || more.length) {
    throw new Error(`tensor ${name} is not described right`);
  }
  // Lengths of 0 aside, the product of the axes must be a number that is held exactly.
  const longest = product(shape.map((size) => Math.max(size, 1))) * itemSize(dtype);
  const size = product(shape) * itemSize(dtype);
  if (shape.length > 16 || longest > 2 ** 32 || end - begin! !== size) {
    throw new Error(`tensor ${name} does not fit its shape`);
  }
  return { name, dtype, shape, begin: begin!, end };
}

function counts(value: Json | undefined): number[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const good = value.every((one) => typeof one === "bigint" && one >= 0n && one < 2n ** 53n);
  return good ? value.map(Number) : undefined;
}
