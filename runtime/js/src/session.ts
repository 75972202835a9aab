// Open a bundle on an execution provider, and start streams.

import { expect, expectOptions } from "./base/arguments.js";
import type { Tensor } from "./base/dtype.js";
import { fail } from "./base/errors.js";
import { type Hashing, hashWasm } from "./base/hashing.js";
import { Bundle, type Verify } from "./bundle/bundle.js";
import type { Source } from "./bundle/source.js";
import { Engine, identityOf, initialState, type Lowering } from "./execution/engine.js";
import type { Ort } from "./execution/ort.js";
import { Stream } from "./stream.js";

export interface SessionOptions {
  /**
   * What runs the graphs, by its name in ONNX Runtime: `wasm` or `webgpu` on the web, `cpu` and others
   * in Node and React Native. What is asked for runs, or an error says why not. The default is `wasm`
   * on the web, else `cpu`.
   */
  provider?: string;
  /** Refuse a graph of which a part would run on the CPU instead. True by default. */
  strict?: boolean;
  /** Run only graphs of this lowering; by default the best that run here. */
  lowering?: Lowering;
  /** Run this graph file alone. */
  graph?: string;
  /** The T to run; by default all that the graphs allow. */
  chunkSizes?: readonly number[];
  /** `full` hashes every file, `size` only compares sizes. */
  verify?: Verify;
  /** Steps between two checks of a stream's state for NaN; 64 by default. */
  checkStateEvery?: number;
  /** Threads inside one operator, where the platform lets a session choose; 1 by default. */
  threads?: number;
  /**
   * Run graphs that ask for a newer ONNX Runtime than this one. Prove them by `verify` then: an older
   * one may compute something else.
   */
  olderRuntime?: boolean;
  /** Other hash functions than those of hash-wasm. */
  hashing?: Hashing;
}

const OPTIONS = {
  provider: "string",
  strict: "boolean",
  lowering: ["fused", "portable", "other"],
  graph: "string",
  verify: ["full", "size"],
  olderRuntime: "boolean",
  hashing: "object",
} as const;

export interface StreamOptions {
  /** What the model takes once for each stream, with B = 1 or without the batch axis. */
  inputs?: Readonly<Record<string, Tensor>>;
}

/**
 * A bundle open on one provider.
 *
 * ```js
 * const session = await Session.open(ort, fetchSource("/models/text"));
 * const stream = session.stream();
 * const { logits } = await stream.advance(encodeBytes("any number of bytes"));
 * ```
 */
export class Session extends Engine {
  /**
   * Open a bundle: check its files and rules. A graph is loaded when it is first needed.
   *
   * @param ort the module of onnxruntime-web, onnxruntime-node or onnxruntime-react-native.
   * @param source where the files are: `fetchSource`, `memorySource`, or `folder` of dst-edge/node.
   * @throws DstError with the codes of bundles and sessions.
   */
  static async open(ort: Ort, source: Source, options: SessionOptions = {}): Promise<Session> {
    expect("ort", ort, "the module of an ONNX Runtime", Boolean(ort?.InferenceSession));
    expect("source", source, "a source of a bundle", typeof source?.read === "function");
    expectOptions(options, OPTIONS);
    const { chunkSizes, provider } = options;
    expect("provider", provider, "the name of a provider", provider !== "");
    const sizes = chunkSizes === undefined || Array.isArray(chunkSizes);
    expect("chunkSizes", chunkSizes, "a list of numbers", sizes);
    const { checkStateEvery = 64, hashing = hashWasm, threads = 1 } = options;
    const whole = { checkStateEvery, threads };
    for (const [name, value] of Object.entries(whole)) {
      if (!Number.isInteger(value) || value < 1) {
        fail("argument", `${name} is ${value}, expected a whole number of 1 or more`);
      }
    }
    const bundle = await Bundle.open(source, hashing, options.verify);
    return new Session(
      ort,
      bundle,
      {
        ...whole,
        provider: options.provider ?? ("web" in ort.env.versions ? "wasm" : "cpu"),
        strict: options.strict ?? true,
        lowering: options.lowering,
        graph: options.graph,
        chunkSizes: options.chunkSizes,
        olderRuntime: options.olderRuntime ?? false,
      },
      await identityOf(bundle),
      await initialState(bundle),
    );
  }

  /**
   * Start a stream at the initial state.
   *
   * @throws DstError `stream-input-…`: an input is missing, unknown or does not fit the contract.
   */
  stream(options: StreamOptions = {}): Stream {
    expectOptions(options, { inputs: "object" });
    return Stream.start(this, options.inputs);
  }
}
