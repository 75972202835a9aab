// Put the page, its libraries and its models into one folder that any web server can serve.
//
//   npm install && node site.mjs [OUT] [--models FOLDER]
//
// OUT is ./site by default. FOLDER has the bundles, by default those that dst ships.

import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { models: { type: "string", default: path.join(here, "../../src/dst/shipped") } },
});
const out = path.resolve(positionals[0] ?? path.join(here, "site"));

const MODELS = ["log", "log-int8", "text", "text-int8"];
const ORT = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];

const packageFolder = (name) => path.dirname(fileURLToPath(import.meta.resolve(name)));

await rm(out, { recursive: true, force: true });
await cp(path.join(here, "page"), out, { recursive: true });
await mkdir(path.join(out, "lib/ort"), { recursive: true });
await cp(packageFolder("dst-edge"), path.join(out, "lib/dst-edge"), {
  recursive: true,
  filter: (name) => !name.endsWith(".d.ts") && !name.endsWith("node.js"),
});
for (const name of ORT) {
  await cp(path.join(packageFolder("onnxruntime-web"), name), path.join(out, "lib/ort", name));
}
// A worker has no import map: the one bare import of the package becomes a path.
const hashWasm = createRequire(import.meta.resolve("dst-edge")).resolve("hash-wasm");
await cp(path.join(path.dirname(hashWasm), "index.esm.min.js"), path.join(out, "lib/hash-wasm.js"));
const hashing = path.join(out, "lib/dst-edge/base/hashing.js");
const code = await readFile(hashing, "utf8");
await writeFile(hashing, code.replace('from "hash-wasm"', 'from "../../hash-wasm.js"'));

// Of a bundle, what a session reads: no golden runs and no reports.
for (const model of MODELS) {
  const names = await readdir(path.join(values.models, model));
  for (const name of names.filter((name) => !/^(golden|report)/.test(name))) {
    await cp(path.join(values.models, model, name), path.join(out, "models", model, name));
  }
}

// What the service worker keeps at once: all but the larger models, which it keeps when they are used.
const files = (await readdir(out, { recursive: true, withFileTypes: true }))
  .filter((entry) => entry.isFile())
  .map((entry) => path.relative(out, path.join(entry.parentPath ?? entry.path, entry.name)))
  .map((name) => name.split(path.sep).join("/"))
  .filter((name) => name !== "sw.js" && !name.startsWith("models/text"))
  .sort();
const hash = createHash("sha256");
for (const name of files) hash.update(name).update(await readFile(path.join(out, name)));
const list = { version: hash.digest("hex").slice(0, 16), files };
const worker = path.join(out, "sw.js");
await writeFile(worker, `const SITE = ${JSON.stringify(list)};\n${await readFile(worker, "utf8")}`);
console.log(`${out}: ${files.length} files, version ${list.version}`);
