// Keep saved states in the browser's own database.

import { DstError, fail, firstLine } from "../base/errors.js";
import { byCodePoint } from "../base/json.js";
import { checkName, checkWrite, type StateStore } from "./store.js";

const TABLE = "states";

interface Row {
  newest: Uint8Array;
  previous?: Uint8Array | undefined;
}

/**
 * States in an IndexedDB database of this origin; pages and workers may share it.
 *
 * A state and the one before it are written in one transaction, which waits until the disk has it
 * (`durability: "strict"`). A browser may delete the database when space is short, unless
 * `navigator.storage.persist()` was granted. Two pages that save one and the same name take turns, and
 * the last one wins: let one of them own a stream (`navigator.locks`).
 */
export class IndexedDbStore implements StateStore {
  private constructor(private readonly database: IDBDatabase) {}

  /** Open a database, or make it. Throws DstError, `state-unreadable`. */
  static async open(name = "dst-states"): Promise<IndexedDbStore> {
    try {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
      return new IndexedDbStore(await done(request));
    } catch (error) {
      throw new DstError("state-unreadable", `database ${name}: ${firstLine(error)}`, {
        cause: error,
      });
    }
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    checkWrite(name, bytes);
    try {
      const transaction = this.database.transaction(TABLE, "readwrite", { durability: "strict" });
      const table = transaction.objectStore(TABLE);
      const before = await done(table.get(name) as IDBRequest<Row | undefined>);
      const row: Row = { newest: bytes, previous: before?.newest };
      table.put(row, name);
      await committed(transaction);
    } catch (error) {
      throw unwritable(name, error);
    }
  }

  async read(name: string): Promise<Uint8Array> {
    const row = await this.#row(name);
    return row?.newest ?? fail("state-not-found", `state ${name}: no such state`);
  }

  async readPrevious(name: string): Promise<Uint8Array> {
    const row = await this.#row(name);
    return row?.previous ?? fail("state-not-found", `state ${name}: no state before the newest`);
  }

  async names(): Promise<string[]> {
    const keys = await this.#look((table) => table.getAllKeys());
    return keys.map(String).sort(byCodePoint);
  }

  async delete(name: string): Promise<void> {
    checkName(name);
    try {
      const transaction = this.database.transaction(TABLE, "readwrite", { durability: "strict" });
      transaction.objectStore(TABLE).delete(name);
      await committed(transaction);
    } catch (error) {
      throw unwritable(name, error);
    }
  }

  close(): void {
    this.database.close();
  }

  async #row(name: string): Promise<Row | undefined> {
    checkName(name);
    return this.#look((table) => table.get(name) as IDBRequest<Row | undefined>);
  }

  async #look<Result>(ask: (table: IDBObjectStore) => IDBRequest<Result>): Promise<Result> {
    try {
      return await done(ask(this.database.transaction(TABLE).objectStore(TABLE)));
    } catch (error) {
      throw new DstError("state-unreadable", `the database cannot be read: ${firstLine(error)}`, {
        cause: error,
      });
    }
  }
}

function unwritable(name: string, error: unknown): DstError {
  const what = `state ${name}: cannot be written: ${firstLine(error)}`;
  return new DstError("state-unwritable", what, { cause: error });
}

function done<Result>(request: IDBRequest<Result>): Promise<Result> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function committed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    // An error of a request aborts it, and only then has the transaction that error: a full disk.
    transaction.onabort = () => reject(transaction.error ?? new Error("it was aborted"));
  });
}
