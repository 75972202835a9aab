// One live recurrence: feed it items, and keep, copy or save what it is.

import { expect, expectOptions } from "./base/arguments.js";
import { bytesOf, type Tensor } from "./base/dtype.js";
import { DstError, fail } from "./base/errors.js";
import { product } from "./base/shapes.js";
import type { Output } from "./bundle/manifest.js";
import { readItems, readTail, type Wanted } from "./execution/chunking.js";
import { Engine } from "./execution/engine.js";
import { checkChunk, checkItems, type Items } from "./execution/items.js";
import {
  type Outputs,
  type Position,
  Recurrence,
  type Stop,
  stopOf,
} from "./execution/recurrence.js";
import { checkInputs } from "./execution/stream-inputs.js";
import { type GenerateOptions, generate } from "./generation.js";
import { pack, unpack } from "./state/codec.js";
import { isSnapshot, putSnapshot, type Snapshot, toSnapshot } from "./state/record.js";
import type { Sampler } from "./state/sampler.js";
import type { StateStore } from "./stores/store.js";

export interface StepOptions extends Stop {
  /** Answer for the last item only; many graphs then save the work of the others. */
  last?: boolean;
}

export interface ReadOptions extends StepOptions {
  /** Names of the outputs to return; all by default. */
  outputs?: readonly string[];
}

export interface LoadOptions {
  /** Take a state that another precision of the model has made. */
  allowPrecision?: boolean;
}

/**
 * One stream of a session.
 *
 * A call that fails leaves the stream as it was before the call. Calls that overlap are done one
 * after the other, in the order in which they were made. Do not change what a call reads before it is
 * done.
 */
export class Stream {
  readonly #core: Recurrence;
  #position: Position; // what the last finished call has left
  #last: Promise<unknown> = Promise.resolve();

  private constructor(core: Recurrence) {
    this.#core = core;
    this.#position = core.position;
  }

  /** Start a stream of a session; `session.stream()` does the same. */
  static start(session: Engine, inputs: Readonly<Record<string, Tensor>> = {}): Stream {
    const core = new Recurrence(session);
    core.reset(checkInputs(session.contract, inputs));
    return new Stream(core);
  }

  /**
   * Make a stream from the bytes of a saved state, written by this runtime or any other.
   *
   * @throws DstError with the codes of saved states.
   */
  static async fromBytes(
    session: Engine,
    bytes: Uint8Array,
    options: LoadOptions = {},
  ): Promise<Stream> {
    expect("session", session, "a session", session instanceof Engine);
    expect("bytes", bytes, "a Uint8Array", bytes instanceof Uint8Array);
    expectOptions(options, { allowPrecision: "boolean" });
    const { hashing } = session.bundle;
    const own = Uint8Array.from(bytes); // which no caller changes, and which is aligned
    return Stream.#from(session, await unpack(own, hashing), options.allowPrecision);
  }

  /** Make a stream from what a store holds under a name. */
  static async load(
    session: Engine,
    store: StateStore,
    name: string,
    options: LoadOptions = {},
  ): Promise<Stream> {
    expect("store", store, "a store", typeof store?.read === "function");
    const bytes = await store.read(name);
    try {
      return await Stream.fromBytes(session, bytes, options);
    } catch (error) {
      throw error instanceof DstError ? error.within(`state ${name}`) : error;
    }
  }

  static #from(session: Engine, snapshot: Snapshot, allowPrecision = false): Stream {
    const core = new Recurrence(session);
    putSnapshot(core, snapshot, allowPrecision);
    return new Stream(core);
  }

  // --- feeding

  /**
   * Step on one chunk, in the contract's dtype and shape with B = 1.
   *
   * For a model with look-ahead the chunk has T + lookahead items: those behind the chunk come again
   * at the beginning of the next one (`advance` sees to that by itself). The answers are the caller's.
   */
  step(chunk: Tensor, options: StepOptions = {}): Promise<Outputs> {
    return this.#call(async (core) => {
      const stop = stopOf(options);
      const { chunkSizes, contract } = core.engine;
      const t = checkChunk(contract.chunk, chunkSizes, chunk);
      if (core.waiting) {
        fail(
          "items-pending",
          `${core.waiting} items from advance wait, and step would overtake them; flush first, or go on with advance`,
        );
      }
      const step = core.stepFor(t, options.last ?? false);
      const { shape } = contract.chunk;
      const bytes = bytesOf(chunk.data);
      // a chunk is a window without its lookback: copy each row behind the lookback's place
      const outer = product(chunk.shape.slice(0, shape.indexOf("T")));
      const row = bytes.length / outer;
      const window = step.chunk.bytes.length / outer;
      for (let o = 0; o < outer; o++) {
        step.chunk.bytes.set(bytes.subarray(o * row, (o + 1) * row), (o + 1) * window - row);
      }
      return core.stepOnce(step, stop);
    });
  }

  /**
   * Read any number of items, stepping each time a chunk of the nominal T is full.
   *
   * The items left over wait for the next call. How the input is cut between calls changes nothing,
   * bit for bit. Outputs are joined along the time axis (length 0 where no chunk filled); outputs per
   * chunk are stacked on a new first axis.
   */
  advance(items: Items, options: ReadOptions = {}): Promise<Outputs> {
    return this.#call(async (core) => {
      const stop = stopOf(options);
      const fresh = checkItems(core.engine.contract.chunk, items);
      return readItems(core, fresh, this.#wanted(options), stop);
    });
  }

  /**
   * Read a long input chunk by chunk, and give the outputs of each chunk as it is done.
   *
   * Each chunk is a call of its own: when an error is thrown, the stream has read all chunks before
   * it. `deadlineMs` counts from the first chunk.
   */
  async *iterAdvance(items: Items, options: ReadOptions = {}): AsyncGenerator<Outputs, void> {
    const { chunk } = this.#core.engine.contract;
    const stop = stopOf(options);
    const fresh = checkItems(chunk, items);
    const { itemBytes } = this.#core.layout;
    const wanted = this.#wanted(options);
    for (let at = 0; at < fresh.length; ) {
      const missing = chunk.nominalT + chunk.lookahead - this.pending;
      const end = Math.min(fresh.length, at + Math.max(1, missing) * itemBytes);
      const part = fresh.subarray(at, end);
      yield await this.#call((core) => readItems(core, part, wanted, stop));
      at = end;
    }
  }

  /**
   * End the input here, by the contract's tail rule, and answer for the items that wait.
   *
   * `exact` steps them with the largest chunks that fit, and the next chunk begins here; `pad` answers
   * for them as if padding followed, and leaves state and items as they were; `refuse` takes no
   * partial chunk.
   */
  flush(options: ReadOptions = {}): Promise<Outputs> {
    return this.#call(async (core) => {
      const stop = stopOf(options);
      return readTail(core, this.#wanted(options), stop);
    });
  }

  /**
   * Read a prompt, then give up to `count` sampled tokens, one after another.
   *
   * A token waits as pending from the moment it is given and is stepped when the next one is asked
   * for: a stream may be saved between any two tokens, and the loaded one goes on to the same text
   * with an empty prompt and no seed.
   */
  generate(
    prompt: Items | string,
    count: number,
    options: GenerateOptions = {},
  ): AsyncGenerator<number, void> {
    return generate(this.#core.engine.contract, (work) => this.#call(work), prompt, count, options);
  }

  // --- state

  get session(): Engine {
    return this.#core.engine;
  }

  /** Items in the state; those that wait are not among them. */
  get itemsConsumed(): bigint {
    return this.#position.items;
  }

  /** How many items wait for their chunk to fill. */
  get pending(): number {
    return this.#position.pending.length / this.#core.layout.itemBytes;
  }

  /** The random source of `generate`; null before its first use. */
  get sampler(): Sampler | null {
    return this.#position.sampler;
  }

  /** A copy of the state: state input name -> values in the contract's shape, B = 1. */
  state(): Promise<Record<string, Tensor>> {
    return this.#alone(async (core) => {
      const values = await core.stateValues();
      const names = core.engine.contract.state.map(({ input }) => input);
      return Object.fromEntries(
        values.map((tensor, i) => [names[i]!, { ...tensor, data: tensor.data.slice() }]),
      );
    });
  }

  /** Start anew, with the same inputs: initial state, nothing pending, nothing sampled. */
  reset(): Promise<void> {
    return this.#alone(async (core) => core.reset(core.position.given.inputs));
  }

  /** Everything the stream is, for `restore`. */
  snapshot(): Promise<Snapshot> {
    return this.#alone(toSnapshot);
  }

  /** Become what a snapshot of this bundle holds. */
  restore(snapshot: Snapshot): Promise<void> {
    return this.#alone(async (core) => {
      expect("snapshot", snapshot, "what snapshot() returned", isSnapshot(snapshot));
      putSnapshot(core, snapshot);
    });
  }

  /** A second stream that stands where this one does and goes its own way. */
  async fork(): Promise<Stream> {
    return Stream.#from(this.#core.engine, await this.snapshot());
  }

  /**
   * Everything the stream is as the bytes of a saved state, which every runtime reads.
   *
   * @throws DstError `state-not-finite`: the state holds a NaN or an infinity.
   */
  toBytes(): Promise<Uint8Array> {
    return this.#packed(async (bytes) => bytes);
  }

  /** Save everything the stream is under a name; the state saved before it is kept. */
  async save(store: StateStore, name: string): Promise<void> {
    expect("store", store, "a store", typeof store?.write === "function");
    return this.#packed((bytes) => store.write(name, bytes));
  }

  // --- inside

  /** Do something with the bytes of the state before the next call begins: saves keep their order. */
  #packed<Result>(work: (bytes: Uint8Array) => Promise<Result>): Promise<Result> {
    return this.#call(async (core) => {
      await core.check();
      return work(await pack(await toSnapshot(core), core.engine.bundle.hashing));
    });
  }

  #wanted({ last = false, outputs }: ReadOptions): Wanted {
    const listed = outputs === undefined || Array.isArray(outputs);
    expect("outputs", outputs, "a list of names", listed);
    const all = this.#core.engine.contract.outputs;
    const named = (name: string): Output =>
      all.find((output) => output.name === name) ??
      fail("no-such-output", `there is no output ${name}; there are ${all.map((o) => o.name)}`);
    return { last, outputs: outputs ? outputs.map(named) : all };
  }

  /** Do some steps as one call. */
  #call<Result>(work: (core: Recurrence) => Promise<Result>): Promise<Result> {
    return this.#alone((core) => core.inOneCall(() => work(core)));
  }

  /** Wait until the calls before this one are done. */
  #alone<Result>(work: (core: Recurrence) => Promise<Result>): Promise<Result> {
    const run = async () => {
      try {
        return await work(this.#core);
      } finally {
        this.#position = this.#core.position;
      }
    };
    const result = this.#last.then(run, run);
    this.#last = result.catch(() => undefined);
    return result;
  }
}
