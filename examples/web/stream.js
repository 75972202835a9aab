// A bundle's address in, a stream over one of its graphs out: chunk by chunk, the state carried on.
//
// This is the whole recurrence for models of tokens; what the Python runtime does beyond it (saving,
// checks of ids and outputs, items that wait) is not repeated. `ort` is the module of onnxruntime-web.

import { readSafetensors, typedArrayOf } from "./safetensors.js";

// Fetches the files of a bundle, and takes none that is not what the manifest lists.
export class Bundle {
  static async open(address) {
    const answer = await fetch(`${address}/manifest.json`);
    if (!answer.ok) throw new Error(`${address}/manifest.json: ${answer.status}`);
    return new Bundle(address, await answer.json());
  }

  constructor(address, manifest) {
    this.address = address;
    this.manifest = manifest;
  }

  async file(name) {
    const listed = this.manifest.files[name];
    if (!listed) throw new Error(`${name} is not a file of this bundle`);
    const answer = await fetch(`${this.address}/${name}`);
    if (!answer.ok) throw new Error(`${this.address}/${name}: ${answer.status}`);
    const bytes = await answer.arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (sha256 !== listed.sha256) {
      throw new Error(
        `${name} has SHA-256 ${sha256}, the manifest lists ${listed.sha256}; fetch it again`,
      );
    }
    return bytes;
  }
}

export class Stream {
  // `graph` is an entry of `manifest.graphs`, `provider` "wasm" or "webgpu".
  static async open(ort, bundle, graph, provider = "wasm") {
    const { contract, files } = bundle.manifest; // fields at their default are left out
    if (contract.chunk.content.kind !== "tokens" || contract.chunk.lookback > 0) {
      throw new Error(
        "this example reads tokens without lookback; see runtime/FORMAT.md for the rest",
      );
    }
    const weights = [];
    if ("weights.bin" in files) {
      weights.push({ path: "weights.bin", data: new Uint8Array(await bundle.file("weights.bin")) });
    }
    const onDevice = provider === "webgpu"; // the state then never leaves the device
    const model = new Uint8Array(await bundle.file(graph.file));
    const session = await ort.InferenceSession.create(model, {
      executionProviders: [provider],
      externalData: weights,
      enableMemPattern: false,
      preferredOutputLocation: onDevice
        ? Object.fromEntries(contract.state.map((s) => [s.output, "gpu-buffer"]))
        : "cpu",
    });
    const stored = contract.state.some((s) => s.init?.kind === "stored")
      ? readSafetensors(await bundle.file("init.safetensors"))
      : {};
    return new Stream(ort, contract, session, stored, graph.answers);
  }

  constructor(ort, contract, session, stored, answers) {
    Object.assign(this, { ort, contract, session, stored, answers });
    this.constants = Object.fromEntries(
      (contract.constants ?? []).map((c) => [c.input, this.#tensor(c.dtype, c.values, c.shape)]),
    );
    this.reset();
  }

  reset() {
    this.state = Object.fromEntries(this.contract.state.map((s) => [s.input, this.#initial(s)]));
  }

  // One chunk [1, T, ...] in, the outputs by name out. If the step throws, the state stays.
  async step(chunk) {
    const t = chunk.dims[this.contract.chunk.shape.indexOf("T")];
    const all = this.answers // some graphs want to be told which items to answer for
      ? { [this.answers]: this.#tensor("int64", [...Array(t).keys()], [t]) }
      : {};
    const results = await this.session.run({
      [this.contract.chunk.input]: chunk,
      ...all,
      ...this.constants,
      ...this.state,
    });
    for (const { input, output } of this.contract.state) {
      this.state[input].dispose();
      this.state[input] = results[output];
    }
    return Object.fromEntries(this.contract.outputs.map(({ name }) => [name, results[name]]));
  }

  // Gives the memory of the graph and its weights back.
  release() {
    return this.session.release();
  }

  #initial({ input, dtype, shape, init }) {
    const sized = shape.map((size) => (size === "B" ? 1 : size));
    if (init?.kind === "stored") {
      return new this.ort.Tensor(dtype, this.stored[init.tensor].data.slice(), sized);
    }
    const values = Array(sized.reduce((a, b) => a * b, 1)).fill(init?.value ?? 0);
    return this.#tensor(dtype, values, sized);
  }

  #tensor(dtype, values, shape) {
    const TypedArray = typedArrayOf(dtype);
    const cast = TypedArray === BigInt64Array ? values.map(BigInt) : values;
    return new this.ort.Tensor(dtype, TypedArray.from(cast), shape);
  }
}
