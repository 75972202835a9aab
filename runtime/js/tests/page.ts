// What browser.ts runs in a page: the suite, and one half of a carried-on stream.

import {
  fetchSource,
  IndexedDbStore,
  memorySource,
  type Ort,
  readTensors,
  type SessionOptions,
  verify,
} from "../src/index.js";
import { carryOn, fromText, toText } from "./carry-on.js";
import {
  bundleFiles,
  editFiles,
  type Platform,
  type Result,
  runSuite,
  type Suite,
} from "./conformance.js";

declare const ort: Ort; // set by the page before this module is loaded

async function suiteOf(): Promise<Suite> {
  const names = (await (await fetch("/suite.json")).json()) as string[];
  const suite: Suite = new Map();
  for (const name of names) {
    const answer = await fetch(`/suite/${name}`);
    suite.set(name, new Uint8Array(await answer.arrayBuffer()));
  }
  return suite;
}

async function conformance(
  provider: string,
): Promise<Omit<Result, "saved"> & { saved: Record<string, string> }> {
  const suite = await suiteOf();
  const replacements = readTensors(suite.get("malformed/files.safetensors")!).tensors;
  let made = 0;
  const platform: Platform = {
    ort,
    provider,
    store: () => IndexedDbStore.open(`run-${Date.now()}-${made++}`),
    async bundle(name, edits = []) {
      const files = bundleFiles(suite, name);
      return editFiles(files, edits, replacements)
        ? memorySource(files, `bundle ${name}`)
        : undefined;
    },
  };
  const result = await runSuite(platform, suite);
  const saved = Object.entries(result.saved).map(([name, bytes]) => [name, toText(bytes)]);
  return { ...result, saved: Object.fromEntries(saved) };
}

async function half(
  address: string,
  options: SessionOptions,
  job: { state?: string; first: string; second: string },
): Promise<{ state: string; outputs: Record<string, string> }> {
  const { outputs, state } = await carryOn(ort, fetchSource(address), options, {
    state: job.state === undefined ? undefined : fromText(job.state),
    first: fromText(job.first),
    second: fromText(job.second),
  });
  const texts = Object.entries(outputs).map(([name, bytes]) => [name, toText(bytes)]);
  return { state: toText(state), outputs: Object.fromEntries(texts) };
}

const golden = (address: string, options: SessionOptions) =>
  verify(ort, fetchSource(address), options);

Object.assign(globalThis, { tests: { conformance, half, golden, version: ort.env.versions.web } });
