// The conformance suite in Node, over onnxruntime-node.
//
//   node build/tests/node.js SUITE WORK [--save]      --save writes SUITE/states/node

import { execFileSync } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import { readTensors, type Source } from "../src/index.js";
import { FolderStore, folder } from "../src/node.js";
import {
  type Edit,
  editFiles,
  type Platform,
  type Result,
  runSuite,
  type Suite,
} from "./conformance.js";

/** Read every file of a suite that is no code. */
export async function readSuite(root: string): Promise<Suite> {
  const suite: Suite = new Map();
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    const place = path.join(entry.parentPath ?? entry.path, entry.name);
    const name = path.relative(root, place).split(path.sep).join("/");
    if (!entry.isFile() || /\.py[c]?$/.test(name)) continue;
    suite.set(name, new Uint8Array(await readFile(place)));
  }
  return suite;
}

function platform(root: string, suite: Suite, work: string): Platform {
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
      const good = path.join(root, "bundles", name);
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

/** Print how a run went, as every runner does, and keep the states that it saved. */
export async function report(
  root: string,
  language: string,
  { failed, passed, saved }: Result,
  save: boolean,
): Promise<void> {
  if (save) {
    const place = path.join(root, "states", language);
    await mkdir(place, { recursive: true });
    for (const [name, bytes] of Object.entries(saved)) {
      await writeFile(path.join(place, `${name}.state`), bytes);
    }
  }
  for (const line of failed) console.log(`FAILED ${line}`);
  console.log(`${passed.length} of ${passed.length + failed.length} passed`);
  process.exitCode = failed.length || passed.length === 0 ? 1 : 0;
}

async function main([root, place, save]: string[]): Promise<void> {
  if (!root || !place) throw new Error("usage: node build/tests/node.js SUITE WORK [--save]");
  const work = await mkdtemp(path.join(place, "node-"));
  try {
    const suite = await readSuite(root);
    const result = await runSuite(platform(root, suite, work), suite);
    await report(root, "node", result, save === "--save");
  } finally {
    await rm(work, { recursive: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
