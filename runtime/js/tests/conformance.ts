// Run the conformance suite of tests/conformance; its README.md describes scripts and cases.

import { bytesOf, isFloat, numberAt } from "../src/base/dtype.js";
import {
  DstError,
  errorOf,
  type Ort,
  type Outputs,
  readTensors,
  Session,
  type SessionOptions,
  type Snapshot,
  type Source,
  type StateStore,
  Stream,
  type Tensor,
} from "../src/index.js";

/** The files of the suite, by their paths below its folder. */
export type Suite = Map<string, Uint8Array>;

export interface Edit {
  edit: string;
  file: string;
  from?: string;
  hex?: string;
  size?: number;
  at?: number;
  bit?: number;
  to?: string;
}

/** What differs between Node and a browser. */
export interface Platform {
  ort: Ort;
  provider: string;
  /** A bundle of the suite; with `edits` a copy of it, or undefined where they cannot be done. */
  bundle(name: string, edits?: Edit[]): Promise<Source | undefined>;
  /** An empty place for saved states. */
  store(): Promise<StateStore>;
}

export interface Result {
  passed: string[];
  failed: string[];
  /** What the streams `a` of the scripts `save/*` are, by the names of the scripts. */
  saved: Record<string, Uint8Array>;
}

// biome-ignore lint/suspicious/noExplicitAny: a script is JSON of many kinds of calls
type Call = Record<string, any>;

export async function runSuite(platform: Platform, suite: Suite): Promise<Result> {
  const result: Result = { passed: [], failed: [], saved: {} };
  const attempt = async (name: string, work: () => Promise<boolean>) => {
    try {
      if (await work()) result.passed.push(name);
    } catch (error) {
      result.failed.push(`${name}: ${error instanceof Error ? error.message : error}`);
    }
  };
  for (const path of [...suite.keys()].sort()) {
    const [, group, name] = /^scripts\/([^/]+)\/([^/]+)\.json$/.exec(path) ?? [];
    if (!group || !name) continue;
    await attempt(`${group}/${name}`, async () => {
      const saved = await runScript(platform, suite, group, name);
      if (saved) result.saved[name] = saved;
      return true;
    });
  }
  const files = readTensors(suite.get("malformed/files.safetensors")!).tensors;
  for (const kind of ["bundles", "states"]) {
    for (const item of json(suite, `malformed/${kind}.json`) as Call[]) {
      await attempt(`malformed ${kind}: ${item.name}`, () => {
        return refused(platform, suite, files, item, kind === "bundles");
      });
    }
  }
  return result;
}

function json(suite: Suite, path: string): unknown {
  return JSON.parse(new TextDecoder().decode(suite.get(path)));
}

// --- scripts

async function runScript(
  platform: Platform,
  suite: Suite,
  group: string,
  name: string,
): Promise<Uint8Array | undefined> {
  const text = new TextDecoder().decode(suite.get(`scripts/${group}/${name}.json`));
  const each = (JSON.parse(text) as Call).each_language;
  const languages = each ? languagesOf(suite) : [""];
  const all = readTensors(suite.get(`scripts/${group}.safetensors`)!).tensors;
  const own = [...all].filter(([key]) => key.startsWith(`${name}/`));
  const arrays = new Map(own.map(([key, tensor]) => [key.slice(name.length + 1), tensor]));
  let saved: Uint8Array | undefined;
  for (const language of languages) {
    const script = JSON.parse(text.replaceAll("{language}", language)) as Call;
    const player = await Player.open(platform, suite, script, arrays);
    for (const [number, call] of (script.calls as Call[]).entries()) {
      try {
        await player.run(call);
      } catch (error) {
        const why = error instanceof Error ? error.message : error;
        throw new Error(`call ${number} (${call.call}) ${language}: ${why}`);
      }
    }
    if (group === "save") saved = await player.streams.get("a")!.toBytes();
    await player.session.close();
  }
  return saved;
}

function languagesOf(suite: Suite): string[] {
  const found = [...suite.keys()].map((path) => /^states\/([^/]+)\//.exec(path)?.[1]);
  return [...new Set(found.filter((name) => name !== undefined))].sort();
}

interface Found {
  outputs?: Outputs;
  state?: Outputs;
  tokens?: number[];
  items_consumed?: number;
  pending?: number;
  sampler?: { seed: string; draws: string } | null;
}

class Player {
  readonly streams = new Map<string, Stream>();
  readonly #snapshots = new Map<string, Snapshot>();

  private constructor(
    readonly session: Session,
    private readonly suite: Suite,
    private readonly arrays: Map<string, Tensor>,
    private readonly store: StateStore,
  ) {}

  static async open(
    { bundle, ort, provider, store }: Platform,
    suite: Suite,
    script: Call,
    arrays: Map<string, Tensor>,
  ): Promise<Player> {
    const told = script.open ?? {};
    // npm has no ONNX Runtime as new as some bundles ask for; the results are compared here
    const options: SessionOptions = { provider, olderRuntime: true };
    if (told.chunk_sizes) options.chunkSizes = told.chunk_sizes;
    if (told.check_state_every) options.checkStateEvery = told.check_state_every;
    const session = await Session.open(ort, (await bundle(script.bundle))!, options);
    return new Player(session, suite, arrays, await store());
  }

  async run(call: Call): Promise<void> {
    let found: Found;
    try {
      found = await this.#act(call);
    } catch (error) {
      if (error instanceof DstError && error.code === call.error) return;
      const is = error instanceof DstError ? `${error.code} (${error.message})` : error;
      throw new Error(`${is}, expected ${call.error ?? "no error"}`);
    }
    if (call.error) throw new Error(`no error, expected ${call.error}`);
    for (const [key, expected] of Object.entries(call.expect ?? {})) {
      this.#compare(call, key, found[key as keyof Found], expected);
    }
  }

  #array(name: string): Tensor {
    const array = this.arrays.get(name);
    if (!array) throw new Error(`no array ${name}`);
    return array;
  }

  async #act(call: Call): Promise<Found> {
    if (call.call === "stream") {
      const inputs = Object.entries((call.inputs ?? {}) as Record<string, string>);
      const given = inputs.map(([name, ref]) => [name, this.#array(ref)]);
      this.streams.set(call.as, this.session.stream({ inputs: Object.fromEntries(given) }));
      return {};
    }
    if (call.call === "load") {
      const options = { allowPrecision: call.allow_precision ?? false };
      const stream = call.file
        ? await Stream.fromBytes(this.session, this.suite.get(call.file)!, options)
        : await Stream.load(this.session, this.store, call.from, options);
      this.streams.set(call.as, stream);
      return {};
    }
    return this.#actOn(this.streams.get(call.stream)!, call);
  }

  async #actOn(stream: Stream, call: Call): Promise<Found> {
    const last = call.last ?? false;
    switch (call.call) {
      case "step":
        return { outputs: await stream.step(this.#array(call.chunk), { last }) };
      case "advance":
        return { outputs: await stream.advance(this.#array(call.items), { last }) };
      case "flush":
        return { outputs: await stream.flush() };
      case "generate":
        return { tokens: await this.#generate(stream, call) };
      case "look": {
        const { sampler } = stream;
        return {
          state: await stream.state(),
          items_consumed: Number(stream.itemsConsumed),
          pending: stream.pending,
          sampler: sampler && { seed: String(sampler.seed), draws: String(sampler.draws) },
        };
      }
      case "snapshot":
        this.#snapshots.set(call.as, await stream.snapshot());
        return {};
      case "restore":
        await stream.restore(this.#snapshots.get(call.from)!);
        return {};
      case "fork":
        this.streams.set(call.as, await stream.fork());
        return {};
      case "reset":
        await stream.reset();
        return {};
      case "save":
        await stream.save(this.store, call.as);
        return {};
      case "bytes": {
        const bytes = await stream.toBytes();
        if (call.same_as) same("bytes", bytes, this.suite.get(call.same_as)!);
        this.streams.set(call.as, await Stream.fromBytes(this.session, bytes));
        return {};
      }
      default:
        throw new Error(`no such call: ${call.call}`);
    }
  }

  async #generate(stream: Stream, call: Call): Promise<number[]> {
    const tokens: number[] = [];
    const made = stream.generate(this.#array(call.prompt), call.items, {
      temperature: call.temperature ?? 1,
      topK: call.top_k ?? 0,
      topP: call.top_p ?? 1,
      stop: call.stop ?? [],
      ...(call.seed === undefined ? {} : { seed: BigInt(call.seed) }),
    });
    for await (const token of made) tokens.push(token);
    return tokens;
  }

  #compare(call: Call, key: string, found: unknown, expected: unknown): void {
    if (key !== "outputs" && key !== "state") {
      if (text(found) !== text(expected)) {
        throw new Error(`${key} is ${text(found)}, expected ${text(expected)}`);
      }
      return;
    }
    const values = found as Outputs;
    const wanted = expected as Record<string, string>;
    if (text(Object.keys(values).sort()) !== text(Object.keys(wanted).sort())) {
      throw new Error(`${key} has ${Object.keys(values)}, expected ${Object.keys(wanted)}`);
    }
    for (const [name, ref] of Object.entries(wanted)) {
      this.#compareTensor(`${key} ${name}`, call, values[name]!, this.#array(ref));
    }
  }

  #compareTensor(where: string, call: Call, value: Tensor, right: Tensor): void {
    const kind = ({ dtype, shape }: Tensor) => `${dtype} [${shape}]`;
    if (kind(value) !== kind(right)) {
      throw new Error(`${where} is ${kind(value)}, expected ${kind(right)}`);
    }
    if ((call.exact ?? true) || !isFloat(value.dtype)) {
      same(where, bytesOf(value.data), bytesOf(right.data));
      return;
    }
    const { graphs } = this.session.bundle.manifest;
    const tolerance = Math.max(...graphs.map((graph) => graph.goldenTolerance));
    const wide = ({ dtype, data }: Tensor) =>
      Float64Array.from({ length: data.length }, (_, i) => numberAt(dtype, data, i));
    const error = errorOf(wide(value), wide(right));
    if (!(error <= tolerance)) {
      throw new Error(`${where} has an error of ${error}, allowed are ${tolerance}`);
    }
  }
}

/** JSON with the keys in order. */
function text(value: unknown): string {
  return JSON.stringify(value, (_, held) =>
    held && typeof held === "object" && !Array.isArray(held)
      ? Object.fromEntries(Object.entries(held).sort())
      : held,
  );
}

function same(where: string, found: Uint8Array, expected: Uint8Array): void {
  const at = found.findIndex((byte, i) => byte !== expected[i]);
  if (found.length !== expected.length || at >= 0) {
    throw new Error(`${where} has other bytes than expected, from ${at} on`);
  }
}

// --- malformed files

/** Do edits to the files of one folder; false where memory has no such thing. */
export function editFiles(files: Suite, edits: Edit[], replacements: Map<string, Tensor>): boolean {
  for (const { edit, file, from, hex = "", size, at = 0, bit = 0 } of edits) {
    const held = files.get(file) ?? new Uint8Array(0);
    if (edit === "remove") {
      files.delete(file);
    } else if (edit === "put") {
      files.set(file, bytesOf(replacements.get(from!)!.data));
    } else if (edit === "append") {
      const more = hex.match(/../g)!.map((pair) => Number.parseInt(pair, 16));
      files.set(file, Uint8Array.from([...held, ...more]));
    } else if (edit === "truncate") {
      files.set(file, held.slice(0, size));
    } else if (edit === "flip") {
      const copy = held.slice();
      copy[at]! ^= 1 << bit;
      files.set(file, copy);
    } else {
      return false;
    }
  }
  return true;
}

/** Try a malformed case; false where this platform cannot make it. */
async function refused(
  platform: Platform,
  suite: Suite,
  replacements: Map<string, Tensor>,
  item: Call,
  isBundle: boolean,
): Promise<boolean> {
  const { ort, provider } = platform;
  const source = await platform.bundle(item.bundle, isBundle ? item.edits : undefined);
  if (!source) return false;
  let code = "no error";
  try {
    const session = await Session.open(ort, source, { provider });
    if (item.after === "step") await session.loadGraphs();
    if (!isBundle) {
      const files: Suite = new Map();
      if (item.state) files.set("state", suite.get(`states/python/${item.state}.state`)!);
      editFiles(files, item.edits, replacements);
      await Stream.fromBytes(session, files.get("state")!);
    }
  } catch (error) {
    if (!(error instanceof DstError)) throw error;
    code = error.code;
  }
  if (code !== item.code) throw new Error(`${code}, expected ${item.code}`);
  return true;
}

/** The files of one bundle of the suite. */
export function bundleFiles(suite: Suite, name: string): Suite {
  const prefix = `bundles/${name}/`;
  const own = [...suite].filter(([path]) => path.startsWith(prefix));
  return new Map(own.map(([path, bytes]) => [path.slice(prefix.length), bytes]));
}
