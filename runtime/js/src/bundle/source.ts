// Where the files of a bundle come from: memory, the network, or a folder (see node.ts).

import { fail, firstLine } from "../base/errors.js";

export type FileKind = "file" | "link" | "other";

export interface Source {
  /** What messages call the bundle. */
  readonly label: string;
  /** Every entry, where the place can tell. What cannot be listed cannot hold unlisted files. */
  list?(): Promise<Map<string, { kind: FileKind; size: number }>>;
  /** A whole file, or undefined where there is none. */
  read(name: string): Promise<Uint8Array | undefined>;
  /** A file in pieces, to hash it without holding it. */
  pieces?(name: string): AsyncIterable<Uint8Array>;
  /** The path of a file, where ONNX Runtime can open it itself. */
  path?(name: string): string;
}

/** A bundle whose files are in memory, such as files that were dropped on a page. */
export function memorySource(files: Map<string, Uint8Array>, label = "bundle"): Source {
  return {
    label,
    list: async () =>
      new Map([...files].map(([name, { length }]) => [name, { kind: "file", size: length }])),
    read: async (name) => files.get(name),
  };
}

/** A bundle below an address. Files are fetched when they are needed, and hashed then. */
export function fetchSource(address: string | URL, init?: RequestInit): Source {
  const base = String(address).replace(/\/*$/, "/");
  return {
    label: `bundle ${base}`,
    async read(name) {
      let why: string;
      try {
        const answer = await fetch(base + name, init);
        if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
        if (answer.status === 404 || answer.status === 410) return undefined;
        why = `the server answered ${answer.status}`;
      } catch (error) {
        why = firstLine(error);
      }
      return fail("bundle-unreadable", `${name} cannot be fetched: ${why}`);
    },
  };
}
