// The bytes of a safetensors file in, its tensors by name out: { dtype, shape, data }.

const KINDS = {
  BOOL: ["bool", Uint8Array],
  U8: ["uint8", Uint8Array],
  I8: ["int8", Int8Array],
  I32: ["int32", Int32Array],
  I64: ["int64", BigInt64Array],
  F32: ["float32", Float32Array],
  F64: ["float64", Float64Array],
};

export function readSafetensors(bytes) {
  const view = new DataView(bytes);
  const start = 8 + Number(view.getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, start - 8)));
  delete header.__metadata__;
  const tensors = {};
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(header)) {
    if (!(dtype in KINDS)) throw new Error(`tensor ${name}: dtype ${dtype} is not read here`);
    const [kind, TypedArray] = KINDS[dtype];
    // sliced: a typed array must begin at a multiple of its item size
    tensors[name] = {
      dtype: kind,
      shape,
      data: new TypedArray(bytes.slice(start + from, start + to)),
    };
  }
  return tensors;
}

export function typedArrayOf(dtype) {
  for (const [kind, TypedArray] of Object.values(KINDS)) if (kind === dtype) return TypedArray;
  throw new Error(`dtype ${dtype} is not made here`);
}
