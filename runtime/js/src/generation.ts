// Read a prompt and continue it, one sampled token after another.

import { expect, expectOptions, isObject } from "./base/arguments.js";
import { bytesOf, fillWith, newValues, numberAt, type Tensor } from "./base/dtype.js";
import { fail } from "./base/errors.js";
import type { Contract, Output } from "./bundle/manifest.js";
import { joined, readItems, readTail } from "./execution/chunking.js";
import { checkItems, type Items } from "./execution/items.js";
import { type Recurrence, type Stop, stopOf } from "./execution/recurrence.js";
import {
  type Choice,
  checkChoice,
  freshSampler,
  pick,
  type Sampler,
  seeded,
} from "./state/sampler.js";
import { encodeBytes } from "./tokenizer.js";

export interface GenerateOptions extends Partial<Choice>, Pick<Stop, "signal"> {
  /** Start a new random source; by default go on with the stream's own, or make one. */
  seed?: bigint | number;
  /** Tokens after which generation ends; the token itself is still given. */
  stop?: Iterable<number>;
}

/** Does some steps of a stream as one call. */
type InOneCall = <Result>(work: (core: Recurrence) => Promise<Result>) => Promise<Result>;

/** See `Stream.generate`. */
export async function* generate(
  contract: Contract,
  inOneCall: InOneCall,
  prompt: Items | string,
  count: number,
  options: GenerateOptions,
): AsyncGenerator<number, void> {
  expectOptions(options, { signal: "object" });
  const { temperature = 1, topK = 0, topP = 1, seed, stop = [], signal } = options;
  const ids = isObject(stop) && Symbol.iterator in stop;
  expect("stop", stop, "a list of tokens", ids, "generate");
  const logits = logitsOf(contract);
  const choice = { temperature, topK, topP };
  checkChoice(choice);
  if (!(Number.isInteger(count) && count >= 0)) {
    fail("generate", `count is ${count}, expected a whole number of 0 or more`);
  }
  let sampler = seed === undefined ? null : seeded(seed);
  let fresh = checkItems(
    contract.chunk,
    typeof prompt === "string" ? encoded(contract, prompt) : prompt,
  );
  const ends = new Set(stop);
  for (let made = 0; made < count; made++) {
    const [items, start] = [fresh, sampler];
    const token = await inOneCall((core) => predict(core, items, start, logits, choice, signal));
    fresh = new Uint8Array(0);
    sampler = null;
    yield token;
    if (ends.has(token)) return;
  }
}

/**
 * Read items, flush, choose a token by the last answers and let it wait, as one call.
 *
 * Between two calls the token waits and is not in the state: whatever is saved then goes on to the
 * same text.
 */
async function predict(
  core: Recurrence,
  items: Uint8Array,
  start: Sampler | null,
  logits: Output,
  choice: Choice,
  signal: AbortSignal | undefined,
): Promise<number> {
  if (!items.length && !core.waiting) {
    fail("generate", "the prompt is empty and no item waits: there is nothing to continue");
  }
  const wanted = { last: true, outputs: [logits] };
  const stop = stopOf({ signal });
  const read = lastRow((await readItems(core, items, wanted, stop))[logits.name]!);
  const row = lastRow((await readTail(core, wanted, stop))[logits.name]!) ?? read;
  if (!row) fail("generate", "there is nothing to continue; give a prompt");
  const [token, sampler] = pick(choice, row, start ?? core.position.sampler ?? freshSampler());
  const { dtype } = core.engine.contract.chunk;
  const item = newValues(dtype, 1);
  fillWith(dtype, item, token);
  core.position = {
    ...core.position,
    sampler,
    pending: joined(core.position.pending, bytesOf(item)),
  };
  return token;
}

/** The last logits as float64, where there are any. */
function lastRow({ dtype, shape, data }: Tensor): Float64Array | undefined {
  const width = shape[2]!;
  if (!data.length) return undefined;
  return Float64Array.from({ length: width }, (_, i) =>
    numberAt(dtype, data, data.length - width + i),
  );
}

/** The output that tokens are chosen by. Throws DstError, `generate`. */
function logitsOf({ chunk, outputs }: Contract): Output {
  const { content } = chunk;
  if (content.kind !== "tokens") {
    return fail("generate", "this model reads features, and only tokens can be chosen");
  }
  if (chunk.lookahead) fail("generate", "this model looks ahead, and cannot choose the next token");
  if (chunk.tail !== "exact") fail("generate", "this model cannot step one token at a time");
  const found = outputs.find(({ meaning, shape }) => {
    const [batch, time, width] = shape;
    const fits = batch === "B" && time === "T" && width === content.vocabulary;
    return meaning === "logits" && shape.length === 3 && fits;
  });
  return found ?? fail("generate", "this model has no logits per item over its vocabulary");
}

function encoded({ chunk }: Contract, prompt: string): Uint8Array {
  if (chunk.content.kind === "tokens" && chunk.content.tokenizer === "bytes") {
    return encodeBytes(prompt);
  }
  return fail(
    "generate",
    "the prompt is a text, and this model's tokens are not bytes: encode it with its tokenizer and give ids",
  );
}
