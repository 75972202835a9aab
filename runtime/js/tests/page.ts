// What browser.ts and golden.ts run in a page.

import {
  fetchSource,
  IndexedDbStore,
  memorySource,
  type Ort,
  readTensors,
  type SessionOptions,
  verify,
} from "../src/index.js";
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
  const names = (await (await fetch("/files.json")).json()) as string[];
  const suite: Suite = new Map();
  for (const name of names) {
    const answer = await fetch(`/files/${name}`);
    suite.set(name, new Uint8Array(await answer.arrayBuffer()));
  }
  return suite;
}

async function conformance(): Promise<Omit<Result, "saved"> & { saved: Record<string, string> }> {
  const suite = await suiteOf();
  const replacements = readTensors(suite.get("malformed/files.safetensors")!).tensors;
  let made = 0;
  const platform: Platform = {
    ort,
    provider: "wasm",
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

function toText(bytes: Uint8Array): string {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

const golden = (address: string, options: SessionOptions) =>
  verify(ort, fetchSource(address), options);

Object.assign(globalThis, { tests: { conformance, golden } });
