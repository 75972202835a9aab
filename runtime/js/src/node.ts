// What needs Node's file system: bundles and saved states in folders.

import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { link, lstat, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { expect, expectOptions } from "./base/arguments.js";
import { DstError, fail, firstLine, shown } from "./base/errors.js";
import { byCodePoint } from "./base/json.js";
import type { FileKind, Source } from "./bundle/source.js";
import { MAX_STREAM_BYTES, plainName } from "./bundle/validation.js";
import { checkName, checkWrite, type StateStore } from "./stores/store.js";

/** A bundle in a folder. ONNX Runtime opens its graphs by path. */
export function folder(place: string): Source {
  expect("folder", place, "the path of a folder", typeof place === "string");
  const root = path.resolve(place);
  const at = (name: string) => path.join(root, name);
  return {
    label: `bundle ${shown(path.basename(root))}/`,
    async list() {
      const isFolder = await stat(root).then(
        (held) => held.isDirectory(),
        () => false,
      );
      if (!isFolder) fail("bundle-not-found", `no such folder: ${shown(place)}`);
      const entries = new Map<string, { kind: FileKind; size: number }>();
      for (const name of await readdir(root)) {
        const held = await lstat(at(name));
        const kind = held.isSymbolicLink() ? "link" : held.isFile() ? "file" : "other";
        entries.set(name, { kind, size: held.size });
      }
      return entries;
    },
    read: (name) => readFile(at(name)),
    pieces: (name) => createReadStream(at(name), { highWaterMark: 2 ** 20 }),
    path: at,
  };
}

/**
 * Saved states as files of a folder; each is the file that every other runtime reads and writes.
 *
 * A write is one rename: at every moment a complete file stands at the path. The file before it is
 * kept as `<name>.previous`. Calls on one name are done in their
 * order; where two processes write one name, the last one wins.
 */
export class FolderStore implements StateStore {
  readonly #root: string;
  readonly #durable: boolean;

  /** `durable: false` does not wait for the disk: a save survives a kill, but maybe no loss of power. */
  constructor(root: string, options: { durable?: boolean } = {}) {
    expect("root", root, "the path of a folder", typeof root === "string");
    expectOptions(options, { durable: "boolean" });
    this.#root = path.resolve(root);
    this.#durable = options.durable ?? true;
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    const target = this.#at(name);
    checkWrite(name, bytes);
    await inTurn(target, () => this.#write(name, target, bytes));
  }

  async #write(name: string, target: string, bytes: Uint8Array): Promise<void> {
    // Names of its own: another process that writes the same state renames none of these.
    const own = `.${randomUUID()}`;
    const [fresh, kept] = [
      this.#beside(name, `${own}.tmp`),
      this.#beside(name, `${own}.previous.tmp`),
    ];
    try {
      const held = await lstat(target).catch(missing);
      if (held && !held.isFile()) throw new Error("what stands there is no plain file");
      await this.#removeLeftovers(name);
      await this.#writeNew(fresh, bytes);
      if (held) {
        // a file system without hard links gets a copy
        await link(target, kept).catch(async () => this.#writeNew(kept, await readFile(target)));
        await rename(kept, `${target}.previous`);
        await rm(kept, { force: true }); // a rename to another name of one file leaves both
      }
      await rename(fresh, target);
    } catch (error) {
      await rm(fresh, { force: true }).catch(() => undefined);
      await rm(kept, { force: true }).catch(() => undefined);
      throw wrapped("state-unwritable", `state ${target}: cannot be written`, error);
    }
    if (this.#durable && process.platform !== "win32") await this.#syncFolder(target);
  }

  read(name: string): Promise<Uint8Array> {
    return this.#read(this.#at(name));
  }

  readPrevious(name: string): Promise<Uint8Array> {
    return this.#read(`${this.#at(name)}.previous`);
  }

  async names(): Promise<string[]> {
    const names = await readdir(this.#root).catch((error) => {
      throw wrapped("state-unreadable", `folder ${this.#root}: cannot be read`, error);
    });
    return names.filter((name) => plainName(name) && !name.endsWith(".previous")).sort(byCodePoint);
  }

  async delete(name: string): Promise<void> {
    const target = this.#at(name);
    await inTurn(target, async () => {
      try {
        for (const place of [target, `${target}.previous`]) await rm(place, { force: true });
      } catch (error) {
        throw wrapped("state-unwritable", `state ${target}: cannot be deleted`, error);
      }
    });
  }

  /**
   * Remove what killed writers left, and never write into it: it may share its content with the target
   * where a crash cut a rename in half, or be a link to another file. What another process may still
   * be writing here is not touched.
   */
  async #removeLeftovers(name: string): Promise<void> {
    const begins = `.${name}.`;
    for (const entry of await readdir(this.#root)) {
      const found = entry.startsWith(begins) && LEFTOVER.exec(entry.slice(begins.length));
      if (!found) continue;
      const place = path.join(this.#root, entry);
      const held = await lstat(place).catch(missing);
      const old = held !== undefined && Date.now() - held.mtimeMs > LEFT_MS;
      if (old || found[1] === undefined) await rm(place, { force: true });
    }
  }

  #at(name: string): string {
    checkName(name);
    if (!plainName(name) || name.endsWith(".previous")) {
      fail("argument", `${shown(name)} is no plain file name; use letters, digits and ._-`);
    }
    return path.join(this.#root, name);
  }

  #beside(name: string, ending: string): string {
    return path.join(this.#root, `.${name}${ending}`);
  }

  async #writeNew(place: string, bytes: Uint8Array): Promise<void> {
    const file = await open(place, "wx");
    try {
      await file.writeFile(bytes);
      if (this.#durable) await file.sync();
    } finally {
      await file.close();
    }
  }

  async #syncFolder(target: string): Promise<void> {
    try {
      const file = await open(this.#root, "r");
      await file.sync().finally(() => file.close());
    } catch (error) {
      const why = "the new state is in place, but its folder cannot be synced, save again";
      throw wrapped("not-synced", `state ${target}: ${why}`, error);
    }
  }

  async #read(place: string): Promise<Uint8Array> {
    try {
      const held = await stat(place).catch(missing);
      if (!held) fail("state-not-found", `state ${place}: no such file`);
      if (!held.isFile()) throw new Error("it is no plain file");
      if (held.size > 2 * MAX_STREAM_BYTES) {
        fail("state-corrupt", `state ${place}: larger than any state of this format`);
      }
      return await readFile(place);
    } catch (error) {
      throw wrapped("state-unreadable", `state ${place}: cannot be read`, error);
    }
  }
}

// With a name of its own, or as runtimes name theirs that let one process at a time write a path.
const LEFTOVER = /^([0-9a-f-]{36}\.)?(previous\.)?tmp$/;
const LEFT_MS = 3_600_000;
const turns = new Map<string, Promise<unknown>>();

/** Do what is done to one path after the other, over all stores of this program. */
function inTurn<Result>(target: string, work: () => Promise<Result>): Promise<Result> {
  const result = (turns.get(target) ?? Promise.resolve()).then(work);
  const end = result
    .catch(() => undefined)
    .then(() => {
      if (turns.get(target) === end) turns.delete(target);
    });
  turns.set(target, end);
  return result;
}

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}

function wrapped(code: string, what: string, error: unknown): DstError {
  return error instanceof DstError
    ? error
    : new DstError(code, `${what}: ${firstLine(error)}`, { cause: error });
}
