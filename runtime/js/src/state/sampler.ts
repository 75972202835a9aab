// Choose a token from logits, with random numbers that a saved state can go on with.

import { expect } from "../base/arguments.js";
import { fail } from "../base/errors.js";

/** A random source that is two numbers: draw `draws` of `seed` is always the same. */
export interface Sampler {
  readonly seed: bigint;
  readonly draws: bigint;
}

/** How a token is chosen. Temperature 0 takes the most likely one and draws nothing. */
export interface Choice {
  /** Divides the logits. */
  temperature: number;
  /** Choose among the k most likely tokens; 0 for all. */
  topK: number;
  /** Choose among the most likely tokens that together reach this probability. */
  topP: number;
}

const MASK = (1n << 64n) - 1n;

/** A source at its first draw. Throws DstError, `generate`. */
export function seeded(seed: bigint | number): Sampler {
  if (typeof seed === "number" && !Number.isSafeInteger(seed)) {
    fail("generate", `seed is ${seed}, expected an integer; give a large one as a bigint`);
  }
  expect("seed", seed, "an integer", /^(number|bigint)$/.test(typeof seed), "generate");
  const whole = BigInt(seed);
  if (whole < 0n || whole > MASK) fail("generate", `seed is ${seed}, expected 0 .. 2^64 - 1`);
  return { seed: whole, draws: 0n };
}

/** A source with a seed from the operating system. */
export function freshSampler(): Sampler {
  return { seed: crypto.getRandomValues(new BigUint64Array(1))[0]!, draws: 0n };
}

/** A number in [0, 1), and the source after it. */
export function draw({ seed, draws }: Sampler): [number, Sampler] {
  const after = { seed, draws: draws + 1n };
  return [Number(philox(seed, after.draws) >> 11n) * 2 ** -53, after];
}

/**
 * Philox 4x64-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011): the first of
 * its four outputs for the key [seed, 0] and the counter [count, 0, 0, 0].
 */
function philox(seed: bigint, count: bigint): bigint {
  let [x0, x1, x2, x3] = [count, 0n, 0n, 0n];
  let [key0, key1] = [seed, 0n];
  for (let round = 0; round < 10; round++) {
    const first = 0xd2e7470ee14c6c93n * x0;
    const second = 0xca5a826395121157n * x2;
    [x0, x1] = [(second >> 64n) ^ x1 ^ key0, second & MASK];
    [x2, x3] = [(first >> 64n) ^ x3 ^ key1, first & MASK];
    key0 = (key0 + 0x9e3779b97f4a7c15n) & MASK;
    key1 = (key1 + 0xbb67ae8584caa73bn) & MASK;
  }
  return x0;
}

/** Throws DstError, `generate`, where a value is outside its range. */
export function checkChoice({ temperature, topK, topP }: Choice): void {
  const refuse = (name: string, value: number, expected: string): never =>
    fail("generate", `${name} is ${value}, expected ${expected}`);
  if (
    !(typeof temperature === "number" && temperature >= 0 && temperature < Number.POSITIVE_INFINITY)
  ) {
    refuse("temperature", temperature, "0 or more");
  }
  if (!(Number.isInteger(topK) && topK >= 0)) refuse("topK", topK, "0 (all) or more");
  if (!(typeof topP === "number" && topP > 0 && topP <= 1))
    refuse("topP", topP, "more than 0, at most 1");
}

/** Choose a token from logits; equal inputs give equal tokens. */
export function pick(
  { temperature, topK, topP }: Choice,
  logits: Float64Array,
  sampler: Sampler,
): [number, Sampler] {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!); // stable
  if (temperature === 0) return [order[0]!, sampler];
  if (topK) order.splice(topK);
  let sum = 0;
  const reach = order.map((token) => {
    sum += Math.exp((logits[token]! - logits[order[0]!]!) / temperature);
    return sum;
  });
  if (topP < 1) {
    const kept = reach.findIndex((value) => value >= topP * sum);
    if (kept >= 0) reach.splice(kept + 1);
  }
  const [number, after] = draw(sampler);
  const place = reach.findIndex((value) => value > number * reach.at(-1)!);
  return [order[place < 0 ? reach.length - 1 : place]!, after];
}
