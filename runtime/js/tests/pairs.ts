// Do one half of a stream that another runtime does the other half of, for tests/test_js.py.
//
//   node build/tests/pairs.js node|chromium BUNDLE FIRST SECOND OUT [STATE]
//
// FIRST and SECOND are files of items in the chunk's dtype. Writes OUT/state, and OUT/<i>.<output> for
// each output of SECOND (0) and of the flush behind it (1).

import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import * as ort from "onnxruntime-node";
import { folder } from "../src/node.js";
import { openPage } from "./browser.js";
import { carryOn, type Done, fromText, toText } from "./carry-on.js";

// npm has no ONNX Runtime as new as some bundles ask for; the results are compared here.
const OPTIONS = { olderRuntime: true };

async function inChromium(bundle: string, files: Uint8Array[]): Promise<Done> {
  const [first, second, state] = files.map(toText);
  const { close, page } = await openPage("wasm", path.dirname(bundle));
  try {
    const job = { first, second, ...(state === undefined ? {} : { state }) };
    const address = `/bundles/${path.basename(bundle)}`;
    const call = `tests.half(${JSON.stringify(address)}, ${JSON.stringify(OPTIONS)}, ${JSON.stringify(job)})`;
    const done = (await page.evaluate(call)) as {
      state: string;
      outputs: Record<string, string>;
    };
    const outputs = Object.entries(done.outputs).map(([name, text]) => [name, fromText(text)]);
    return { state: fromText(done.state), outputs: Object.fromEntries(outputs) };
  } finally {
    await close();
  }
}

const [where, bundle, ...names] = process.argv.slice(2) as [string, string, ...string[]];
const out = names.splice(2, 1)[0]!;
const files = await Promise.all(names.map(async (name) => new Uint8Array(await readFile(name))));
const [first, second, state] = files as [Uint8Array, Uint8Array, Uint8Array?];
const done =
  where === "chromium"
    ? await inChromium(path.resolve(bundle), files)
    : await carryOn(ort, folder(bundle), OPTIONS, { first, second, state });
await mkdir(out, { recursive: true });
await writeFile(path.join(out, "state"), done.state);
for (const [name, bytes] of Object.entries(done.outputs)) {
  await writeFile(path.join(out, name.replace("/", ".")), bytes);
}
