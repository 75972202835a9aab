// Stores of states in folders: what stands there whoever writes, and what they cannot do.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  symlink,
  utimes,
  writeFile,
} from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { Stream } from "../src/index.js";
import { FolderStore } from "../src/node.js";
import { open, refusedBy, work } from "./shared.js";

test("a folder keeps a state and the one before it, and writes into no file of another", async () => {
  const store = new FolderStore(work);
  await assert.rejects(store.read("a.state"), refusedBy("state-not-found"));
  await store.write("a.state", Uint8Array.of(1));
  await store.write("a.state", Uint8Array.of(2));
  // what a killed writer may leave: a hard link to the target, and a link to another file
  await writeFile(path.join(work, "other"), "other");
  await link(path.join(work, "a.state"), path.join(work, ".a.state.previous.tmp"));
  await symlink(path.join(work, "other"), path.join(work, ".a.state.tmp"));
  await store.write("a.state", Uint8Array.of(3));
  assert.deepEqual([...(await store.read("a.state"))], [3]);
  assert.deepEqual([...(await store.readPrevious("a.state"))], [2]);
  assert.equal(await readFile(path.join(work, "other"), "utf8"), "other");
  assert.deepEqual(await store.names(), ["a.state", "other"]);
  await store.delete("a.state");
  assert.deepEqual(await readdir(work), ["other"]);
  for (const name of ["../a", ".hidden", "a/b", "con.txt"]) {
    await assert.rejects(async () => store.write(name, Uint8Array.of(1)), refusedBy("argument"));
  }
});

test("saves that overlap are done in their order, and the newest state stands", async () => {
  const place = await mkdtemp(path.join(work, "saves-"));
  const stores = [1, 2, 3].map(() => new FolderStore(place, { durable: false }));
  const stream = (await open("tokens")).stream();
  for (let round = 0; round < 20; round++) {
    const calls = stores.flatMap((store) => [
      stream.advance([1, 2, 3]),
      stream.save(store, "a.state"),
    ]);
    await Promise.all(calls);
    const loaded = await Stream.load(stream.session, stores[0]!, "a.state");
    assert.deepEqual(await loaded.toBytes(), await stream.toBytes());
  }
  assert.deepEqual((await readdir(place)).sort(), ["a.state", "a.state.previous"]);
});

test("two processes that save one state leave a whole one", async () => {
  const place = await mkdtemp(path.join(work, "processes-"));
  const module = new URL("../src/node.js", import.meta.url).href;
  const code = `const { FolderStore } = await import(${JSON.stringify(module)});
    const [place, value] = process.argv.slice(1);
    const store = new FolderStore(place, { durable: false });
    for (let i = 0; i < 30; i++) await store.write("a", new Uint8Array(4e6).fill(Number(value)));`;
  const one = (value: number) =>
    promisify(execFile)(process.execPath, [
      "--input-type=module",
      "-e",
      code,
      place,
      String(value),
    ]);
  const store = new FolderStore(place);
  await store.write("a", new Uint8Array(4e6));
  let running = true;
  const both = Promise.all([one(1), one(2)]).finally(() => {
    running = false;
  });
  while (running) {
    const bytes = await store.read("a");
    assert.equal(bytes.length, 4e6);
    assert.ok(bytes.every((byte) => byte === bytes[0]));
    await new Promise((later) => setTimeout(later, 5));
  }
  await both;
  assert.deepEqual((await readdir(place)).sort(), ["a", "a.previous"]);
});

test("what a killed writer left under a name of its own goes when it is old", async () => {
  const place = await mkdtemp(path.join(work, "left-"));
  const [old, fresh] = ["0", "1"].map((digit) => `.a.${digit.repeat(36)}.tmp`) as [string, string];
  await writeFile(path.join(place, old), "old");
  await writeFile(path.join(place, fresh), "fresh");
  await utimes(path.join(place, old), 1, 1);
  await new FolderStore(place).write("a", Uint8Array.of(1));
  assert.deepEqual((await readdir(place)).sort(), [fresh, "a"]);
});

test("a store tells by its code what it cannot do", async () => {
  const nowhere = new FolderStore(path.join(work, "nowhere"));
  await assert.rejects(nowhere.names(), refusedBy("state-unreadable"));
  await assert.rejects(nowhere.write("a", Uint8Array.of(1)), refusedBy("state-unwritable"));
  await mkdir(path.join(work, "a-folder"));
  await assert.rejects(new FolderStore(work).delete("a-folder"), refusedBy("state-unwritable"));
});
