// Data types, tensors, and the arithmetic of float16.

export type Dtype =
  | "float16"
  | "float32"
  | "float64"
  | "int8"
  | "int32"
  | "int64"
  | "uint8"
  | "bool";

export type TypedArray =
  | Uint16Array
  | Float32Array
  | Float64Array
  | Int8Array
  | Int32Array
  | BigInt64Array
  | Uint8Array;

/** Values in C order. float16 is held as its bits in a Uint16Array, bool as 0 and 1. */
export interface Tensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

interface Row {
  code: string;
  size: number;
  least: number;
  most: number;
  view: (buffer: ArrayBufferLike, offset: number, length: number) => TypedArray;
}

const MAX_FLOAT32 = 3.4028234663852886e38;

const ROWS: Record<Dtype, Row> = {
  float16: row("F16", 2, -65504, 65504, (b, o, n) => new Uint16Array(b, o, n)),
  float32: row("F32", 4, -MAX_FLOAT32, MAX_FLOAT32, (b, o, n) => new Float32Array(b, o, n)),
  float64: row("F64", 8, -Number.MAX_VALUE, Number.MAX_VALUE, (b, o, n) => {
    return new Float64Array(b, o, n);
  }),
  int8: row("I8", 1, -128, 127, (b, o, n) => new Int8Array(b, o, n)),
  int32: row("I32", 4, -(2 ** 31), 2 ** 31 - 1, (b, o, n) => new Int32Array(b, o, n)),
  int64: row("I64", 8, -(2 ** 63), 2 ** 63, (b, o, n) => new BigInt64Array(b, o, n)),
  uint8: row("U8", 1, 0, 255, (b, o, n) => new Uint8Array(b, o, n)),
  bool: row("BOOL", 1, 0, 1, (b, o, n) => new Uint8Array(b, o, n)),
};

export const DTYPES = Object.keys(ROWS) as Dtype[];

function row(code: string, size: number, least: number, most: number, view: Row["view"]): Row {
  return { code, size, least, most, view };
}

export const itemSize = (dtype: Dtype): number => ROWS[dtype].size;
export const isFloat = (dtype: Dtype): boolean => dtype.startsWith("float");
/** The least and the greatest value of a dtype. */
export const range = (dtype: Dtype): [number, number] => [ROWS[dtype].least, ROWS[dtype].most];
/** The code of a dtype in a safetensors file, such as "F32". */
export const codeOf = (dtype: Dtype): string => ROWS[dtype].code;
export const dtypeOfCode = (code: string): Dtype | undefined =>
  DTYPES.find((dtype) => ROWS[dtype].code === code);

/** Whether a value has the form of a tensor. */
export function isTensor(value: unknown): value is Tensor {
  const { dtype, shape, data } = (value ?? {}) as Partial<Tensor>;
  return typeof dtype === "string" && Array.isArray(shape) && ArrayBuffer.isView(data);
}

/** Whether an array is of the kind that holds a dtype, in whichever window it was made. */
export function holds(dtype: Dtype, data: TypedArray): boolean {
  const kind = data[Symbol.toStringTag] as string;
  return kind === newValues(dtype, 0)[Symbol.toStringTag] || kind.toLowerCase() === `${dtype}array`;
}

/** The bytes of a typed array, in place. */
export function bytesOf(data: TypedArray): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Bytes as values; in place where they are aligned, else copied. */
export function valuesOf(dtype: Dtype, bytes: Uint8Array): TypedArray {
  const size = itemSize(dtype);
  const held = bytes.byteOffset % size ? bytes.slice() : bytes;
  return ROWS[dtype].view(held.buffer, held.byteOffset, held.byteLength / size);
}

/** Zeros. */
export function newValues(dtype: Dtype, count: number): TypedArray {
  return ROWS[dtype].view(new ArrayBuffer(count * itemSize(dtype)), 0, count);
}

/** Fill values with one number, spelled in their dtype. */
export function fillWith(dtype: Dtype, data: TypedArray, value: number, from = 0): void {
  if (data instanceof BigInt64Array) {
    // 2^63 itself is what a float64 makes of the largest int64
    data.fill(BigInt.asIntN(64, value >= 2 ** 63 ? 2n ** 63n - 1n : BigInt(value)), from);
  } else {
    data.fill(dtype === "float16" ? toHalf(value) : value, from);
  }
}

/** One value as a number. */
export function numberAt(dtype: Dtype, data: TypedArray, at: number): number {
  const value = data[at]!;
  return dtype === "float16" ? fromHalf(value as number) : Number(value);
}

/** Whether no value is NaN or infinite; values that are not floats are always finite. */
export function allFinite(dtype: Dtype, data: TypedArray): boolean {
  if (!isFloat(dtype)) return true;
  if (data instanceof Uint16Array) {
    for (const bits of data) if ((bits & 0x7c00) === 0x7c00) return false;
    return true;
  }
  const values = data as Float32Array | Float64Array;
  // x - x is NaN for what is not finite and 0 for all else, so one sum finds any of them
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! - values[i]!;
  return sum === 0;
}

export function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}

/** The bits of the nearest float16, ties to even. */
export function toHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00; // halfway to the next power of two rounds up to it
  if (size < 2 ** -14) return sign + roundEven(size * 2 ** 24);
  // by a float64's own exponent, since a logarithm could round the wrong way
  const exponent =
    ((new DataView(new Float64Array([size]).buffer).getUint32(4, true) >> 20) & 2047) - 1023;
  const steps = roundEven(size * 2 ** (10 - exponent));
  // adding, not joining: a fraction that was rounded up to 2048 carries into the exponent
  return sign + ((exponent + 15) << 10) + (steps - 1024);
}

function roundEven(value: number): number {
  const down = Math.floor(value);
  const rest = value - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}

/** In which features are normalised: a difference of two float16 may exceed it. */
export function normalisedIn(dtype: Dtype): Dtype {
  return dtype === "float16" ? "float32" : dtype;
}
