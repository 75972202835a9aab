// The conformance suite in Node, over onnxruntime-node.
//
//   node build/tests/node.js [--save]      --save writes the states that the suite wants of a language

import { execFileSync } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import { readTensors, type Source } from "../src/index.js";
import { FolderStore, folder } from "../src/node.js";
import {
  type Edit,
  editFiles,
  type Platform,
  runSuite,
  type Suite,
  summary,
} from "./conformance.js";

export const SUITE = fileURLToPath(new URL("../../../../tests/conformance", import.meta.url));

/** Read every file of the suite that is no code. */
export async function readSuite(): Promise<Suite> {
  const suite: Suite = new Map();
  for (const entry of await readdir(SUITE, { recursive: true, withFileTypes: true })) {
    const place = path.join(entry.parentPath ?? entry.path, entry.name);
    const name = path.relative(SUITE, place).split(path.sep).join("/");
    if (!entry.isFile() || /\.py[c]?$/.test(name)) continue;
    suite.set(name, new Uint8Array(await readFile(place)));
  }
  return suite;
}

function platform(suite: Suite, work: string): Platform {
  const replacements = readTensors(suite.get("malformed/files.safetensors")!).tensors;
  let made = 0;
  const fresh = async () => {
    const place = path.join(work, String(made++));
    await mkdir(place);
    return place;
  };
  return {
    ort,
    provider: "cpu",
    store: async () => new FolderStore(await fresh(), { durable: false }),
    async bundle(name: string, edits?: Edit[]): Promise<Source | undefined> {
      const good = path.join(SUITE, "bundles", name);
      if (!edits) return folder(good);
      const copy = await fresh();
      await cp(good, copy, { recursive: true });
      for (const edit of edits) {
        const target = path.join(copy, edit.file);
        if (edit.edit === "link") await symlink(edit.to!, target);
        else if (edit.edit === "folder") await mkdir(target);
        else if (edit.edit === "pipe" && process.platform === "win32") return undefined;
        else if (edit.edit === "pipe") execFileSync("mkfifo", [target]);
        else await editFile(target, edit, replacements);
      }
      return folder(copy);
    },
  };
}

async function editFile(
  target: string,
  edit: Edit,
  replacements: Parameters<typeof editFiles>[2],
): Promise<void> {
  const held = await readFile(target).catch(() => undefined);
  const files: Suite = new Map(held ? [[edit.file, new Uint8Array(held)]] : []);
  editFiles(files, [edit], replacements);
  const bytes = files.get(edit.file);
  await (bytes ? writeFile(target, bytes) : rm(target));
}

async function main(): Promise<void> {
  const suite = await readSuite();
  const work = await mkdtemp(path.join(tmpdir(), "dst-"));
  try {
    const result = await runSuite(platform(suite, work), suite);
    for (const line of result.failed) console.log(`FAILED ${line}`);
    const version = ort.env.versions.node;
    console.log(`Node ${process.version}, onnxruntime-node ${version}: ${summary(result)}`);
    if (process.argv.includes("--save")) {
      const place = path.join(SUITE, "states/js");
      await mkdir(place, { recursive: true });
      for (const [name, bytes] of Object.entries(result.saved)) {
        await writeFile(path.join(place, `${name}.state`), bytes);
      }
    }
    process.exitCode = result.failed.length || result.passed.length < 100 ? 1 : 0;
  } finally {
    await rm(work, { recursive: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
