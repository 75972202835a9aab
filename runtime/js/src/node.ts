// What needs Node's file system: bundles and saved states in folders.

import { createReadStream } from "node:fs";
import { link, lstat, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import { DstError, fail, firstLine, shown } from "./base/errors.js";
import { byCodePoint } from "./base/json.js";
import type { FileKind, Source } from "./bundle/source.js";
import { MAX_STREAM_BYTES, plainName } from "./bundle/validation.js";
import type { StateStore } from "./stores/store.js";

/** A bundle in a folder. ONNX Runtime opens its graphs by path. */
export function folder(place: string): Source {
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
 * kept as `<name>.previous`. One process may write a name at a time.
 */
export class FolderStore implements StateStore {
  readonly #root: string;
  readonly #durable: boolean;

  /** `durable: false` does not wait for the disk: a save survives a kill, but maybe no loss of power. */
  constructor(root: string, { durable = true } = {}) {
    this.#root = path.resolve(root);
    this.#durable = durable;
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    const target = this.#at(name);
    const [fresh, kept] = [this.#beside(name, ".tmp"), this.#beside(name, ".previous.tmp")];
    try {
      const held = await lstat(target).catch(missing);
      if (held && !held.isFile()) throw new Error("what stands there is no plain file");
      // What a killed writer left goes first and is never written into: it may share its content
      // with the target where a crash cut a rename in half, or be a link to another file.
      await rm(fresh, { force: true });
      await rm(kept, { force: true });
      await this.#writeNew(fresh, bytes);
      if (held) {
        // a file system without hard links gets a copy
        await link(target, kept).catch(async () => this.#writeNew(kept, await readFile(target)));
        await rename(kept, `${target}.previous`);
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
    const names = await readdir(this.#root);
    return names.filter((name) => plainName(name) && !name.endsWith(".previous")).sort(byCodePoint);
  }

  async delete(name: string): Promise<void> {
    for (const place of [this.#at(name), `${this.#at(name)}.previous`]) {
      await rm(place, { force: true });
    }
  }

  #at(name: string): string {
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

function missing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT") throw error;
}

function wrapped(code: string, what: string, error: unknown): DstError {
  return error instanceof DstError
    ? error
    : new DstError(code, `${what}: ${firstLine(error)}`, { cause: error });
}
