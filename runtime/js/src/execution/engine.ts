// A bundle's graphs, each opened when it is first needed, and what all streams of them share.

import { allFinite, fillWith, newValues, type Tensor } from "../base/dtype.js";
import { DstError, fail, firstLine, shown } from "../base/errors.js";
import { product, sized } from "../base/shapes.js";
import type { Bundle } from "../bundle/bundle.js";
import { constantMark } from "../bundle/constants.js";
import type { Contract, Graph } from "../bundle/manifest.js";
import { checkGraph } from "./graph-check.js";
import { atLeast, type Ort, type OrtSession, oneByOne, ortVersion } from "./ort.js";

export type Lowering = Graph["lowering"];

export interface EngineOptions {
  provider: string;
  lowering: Lowering | undefined;
  /** Run this graph alone. */
  graph: string | undefined;
  chunkSizes: readonly number[] | undefined;
  checkStateEvery: number;
  threads: number;
  strict: boolean;
  olderRuntime: boolean;
}

/** Whose state a saved state is. */
export interface Identity {
  modelId: string;
  stateHash: string;
  bundleId: string;
  precision: string;
  constants: Map<string, string>;
}

// State of these dtypes can stay on a GPU between two steps.
const GPU_DTYPES = ["float32", "float16", "int32", "int64", "uint8", "bool"];
const RANKS: Record<Lowering, number> = { fused: 0, other: 1, portable: 2 };

export class Engine {
  readonly chunkSizes: readonly number[];
  readonly #graphs: Map<number, Graph>;
  readonly #open = new Map<string, Promise<OrtSession>>();
  #closed = false;

  protected constructor(
    readonly ort: Ort,
    readonly bundle: Bundle,
    readonly options: EngineOptions,
    readonly identity: Identity,
    /** The state that streams start with, in the contract's order. */
    readonly initial: readonly Tensor[],
  ) {
    this.#graphs = chooseGraphs(bundle, options, ortVersion(ort));
    this.chunkSizes = [...this.#graphs.keys()].sort((a, b) => a - b);
  }

  get contract(): Contract {
    return this.bundle.manifest.contract;
  }

  /** The graph that runs chunks of `t` items. Throws DstError, `chunk-size`. */
  graphFor(t: number): Graph {
    const graph = this.#graphs.get(t);
    if (graph) return graph;
    fail(
      "chunk-size",
      `${this.bundle.label}: T = ${t} is not open in this session; it runs ${this.chunkSizes.join(", ")}`,
    );
  }

  /** The same graph, open. Throws DstError, `graph` or `provider`. */
  sessionFor(t: number): Promise<OrtSession> {
    const graph = this.graphFor(t);
    if (this.#closed) fail("closed", `${this.bundle.label}: the session is closed`);
    let session = this.#open.get(graph.file);
    if (!session) {
      session = loadGraph(this, graph);
      this.#open.set(graph.file, session);
      session.catch(() => this.#open.delete(graph.file)); // the next call tries again
    }
    return session;
  }

  /** Open the graphs of all T now, so that the first steps do not wait for it. */
  async loadGraphs(): Promise<void> {
    for (const t of this.chunkSizes) await this.sessionFor(t);
  }

  /** Give the memory of the graphs back. Streams of the session cannot step any more. */
  async close(): Promise<void> {
    this.#closed = true;
    const open = [...this.#open.values()];
    this.#open.clear();
    for (const session of await Promise.allSettled(open)) {
      if (session.status === "fulfilled") await oneByOne(() => session.value.release());
    }
  }
}

export async function identityOf(bundle: Bundle): Promise<Identity> {
  const { manifest, hashing } = bundle;
  const constants = new Map<string, string>();
  for (const constant of manifest.contract.constants) {
    constants.set(constant.input, await constantMark(constant, hashing));
  }
  return {
    modelId: manifest.modelId,
    stateHash: manifest.stateHash,
    bundleId: manifest.upgradedFrom ?? manifest.bundleId,
    precision: manifest.precision,
    constants,
  };
}

/** The state that a stream starts with. Throws DstError, `init-tensors` among others. */
export async function initialState(bundle: Bundle): Promise<Tensor[]> {
  const stored = await bundle.initialTensors();
  return bundle.manifest.contract.state.map(({ input, dtype, shape, init }) => {
    const held = stored.get(input);
    if (held) {
      if (allFinite(dtype, held.data)) return held;
      fail("state-not-finite", `${bundle.label}: state ${input} starts with a NaN or an infinity`);
    }
    const sizes = sized(shape, 0);
    const data = newValues(dtype, product(sizes));
    if ("fill" in init) fillWith(dtype, data, init.fill);
    return { dtype, shape: sizes, data };
  });
}

/**
 * Choose the graph for each T.
 *
 * Of graphs of one lowering, one that runs every T goes before those for one T alone: each open graph
 * holds its weights once more.
 */
function chooseGraphs(bundle: Bundle, options: EngineOptions, here: string): Map<number, Graph> {
  const { label, manifest } = bundle;
  const named = manifest.graphs.filter(
    ({ file, lowering }) =>
      (!options.lowering || lowering === options.lowering) &&
      (!options.graph || file === options.graph),
  );
  if (!named.length) {
    const have = manifest.graphs.map(({ file, lowering }) => `${file} (${lowering})`).join(", ");
    fail("lowering", `${label}: has no graph of that lowering or name; it has ${have}`);
  }
  const recent = named.filter((graph) => options.olderRuntime || atLeast(here, graph.minOrt));
  if (!recent.length) {
    fail(
      "onnxruntime-too-old",
      `${label}: its graphs need ONNX Runtime ${named[0]!.minOrt} or newer, this is ${here}; olderRuntime runs them all the same, then prove them by verify()`,
    );
  }
  const able = recent
    .filter((graph) => !graph.batch.length || graph.batch.includes(1))
    .sort((a, b) => RANKS[a.lowering] - RANKS[b.lowering] || a.allowedT.length - b.allowedT.length);
  const wanted = options.chunkSizes ?? able.flatMap((graph) => graph.allowedT);
  if (!wanted.length) fail("chunk-size", `${label}: no graph runs one stream alone`);
  const chosen = new Map<number, Graph>();
  for (const t of wanted) {
    const first = able.find((graph) => graph.allowedT.includes(t));
    if (!first) fail("chunk-size", `${label}: no graph runs T = ${t} as asked`);
    const forAll = able.find(
      (graph) =>
        graph.lowering === first.lowering && wanted.every((size) => graph.allowedT.includes(size)),
    );
    chosen.set(t, forAll ?? first);
  }
  return chosen;
}

const isCpu = (provider: string) => provider === "cpu" || provider === "wasm";

async function loadGraph(engine: Engine, graph: Graph): Promise<OrtSession> {
  const { bundle, contract, options } = engine;
  const { provider } = options;
  const where = `${bundle.label}: ${graph.file}`;
  const gpu = provider === "webgpu";
  const locations = contract.state
    .filter((state) => gpu && GPU_DTYPES.includes(state.dtype))
    .map((state): [string, "gpu-buffer"] => [state.output, "gpu-buffer"]);
  const settings = {
    executionProviders: [provider],
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    enableMemPattern: false, // with it, memory grows with each new shape
    logSeverityLevel: 4 as const, // what is wrong is thrown
    ...(locations.length ? { preferredOutputLocation: Object.fromEntries(locations) } : {}),
    // Without this, ONNX Runtime puts nodes that a device cannot run on the CPU, and says nothing.
    ...(options.strict && !isCpu(provider)
      ? { extra: { session: { disable_cpu_ep_fallback: "1" } } }
      : {}),
  };
  let session: OrtSession;
  try {
    session = await create(engine, graph, settings);
  } catch (error) {
    if (error instanceof DstError) throw error;
    const why = firstLine(error);
    if (!isCpu(provider) || why.includes("backend not found")) {
      throw new DstError(
        "provider",
        `${where}: provider ${shown(provider)} does not run it here: ${why}; choose another provider${options.strict ? ", or strict: false to let the CPU run a part" : ""}`,
        { cause: error },
      );
    }
    throw new DstError("graph", `${where}: cannot be loaded: ${why}`, { cause: error });
  }
  try {
    checkGraph(where, graph, contract, session);
  } catch (error) {
    await session.release();
    throw error;
  }
  return session;
}

async function create(engine: Engine, graph: Graph, settings: object): Promise<OrtSession> {
  const { bundle, ort } = engine;
  const path = bundle.source.path?.(graph.file);
  if (path !== undefined) return oneByOne(() => ort.InferenceSession.create(path, settings));
  const model = await bundle.read(graph.file);
  const externalData: { path: string; data: Uint8Array }[] = [];
  for (const file of externalFiles(bundle, graph.file, model)) {
    externalData.push({ path: file, data: await bundle.read(file) });
  }
  return oneByOne(() => ort.InferenceSession.create(model, { ...settings, externalData }));
}

/** The files of a bundle whose names stand in a graph: its external data is among them. */
function externalFiles(bundle: Bundle, own: string, model: Uint8Array): string[] {
  const { manifest } = bundle;
  const others = new Set([own, ...manifest.graphs.map((graph) => graph.file)]);
  const names = [...manifest.files.keys()].filter((name) => !others.has(name));
  const text = new TextDecoder("latin1").decode(model); // one character for each byte
  return names.filter((name) => text.includes(name));
}
