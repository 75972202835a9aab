// Open a bundle: read its manifest, and check its files.

import type { Tensor } from "../base/dtype.js";
import { DstError, fail, firstLine, shown } from "../base/errors.js";
import type { Hashing } from "../base/hashing.js";
import { sameShape, sized } from "../base/shapes.js";
import { decodeManifest, type Manifest } from "./manifest.js";
import { readTensors } from "./safetensors.js";
import type { Source } from "./source.js";
import { INIT_FILE, MANIFEST_FILE, MAX_MANIFEST_BYTES } from "./validation.js";

/** `full` hashes every file, `size` only compares sizes. */
export type Verify = "full" | "size";

/** An open bundle: what its manifest says, and its files. */
export class Bundle {
  readonly #checked = new Set<string>();

  private constructor(
    readonly source: Source,
    readonly manifest: Manifest,
    readonly hashing: Hashing,
    readonly verify: Verify,
  ) {}

  /**
   * Read the manifest and check every rule.
   *
   * Of a place that can be listed all files are checked now; of one that cannot, each file when it
   * is read. Throws DstError with the codes of FORMAT.md, section 9.
   */
  static async open(source: Source, hashing: Hashing, verify: Verify = "full"): Promise<Bundle> {
    try {
      const entries = await listed(source);
      const manifest = await decodeManifest(await manifestBytes(source, entries), hashing);
      const bundle = new Bundle(source, manifest, hashing, verify);
      if (entries) await bundle.#checkAll(entries);
      return bundle;
    } catch (error) {
      throw located(error, source.label);
    }
  }

  get label(): string {
    return this.source.label;
  }

  /** Read a listed file, and check it if that was not done. */
  async read(name: string): Promise<Uint8Array> {
    try {
      const bytes = await this.source.read(name);
      if (!bytes) fail("file-missing", `${name} is listed and missing`);
      this.#checkSize(name, bytes.length);
      await this.#checkHash(name, [bytes]);
      return bytes;
    } catch (error) {
      throw located(error, this.label);
    }
  }

  /** The tensors of a listed safetensors file. */
  async tensors(name: string): Promise<Map<string, Tensor>> {
    const bytes = await this.read(name);
    try {
      return readTensors(bytes).tensors;
    } catch (error) {
      fail("tensors-unreadable", `${this.label}: ${name}: ${firstLine(error)}`);
    }
  }

  /** The tensors that state starts from, by the names of the state's inputs; stored ones only. */
  async initialTensors(): Promise<Map<string, Tensor>> {
    const stored = this.manifest.contract.state.filter((state) => "tensor" in state.init);
    const held = stored.length ? await this.tensors(INIT_FILE) : new Map<string, Tensor>();
    return new Map(
      stored.map(({ input, dtype, shape, init }) => {
        const tensor = "tensor" in init ? held.get(init.tensor) : undefined;
        if (!tensor || tensor.dtype !== dtype || !sameShape(tensor.shape, sized(shape, 0))) {
          fail(
            "init-tensors",
            `${this.label}: ${INIT_FILE}: state ${shown(input)} starts from a tensor that is missing or of another dtype or shape`,
          );
        }
        return [input, tensor];
      }),
    );
  }

  async #checkAll(entries: Entries): Promise<void> {
    const { files } = this.manifest;
    for (const name of entries.keys()) {
      if (name !== MANIFEST_FILE && !files.has(name)) {
        fail("file-unlisted", `${shown(name)} is not listed in ${MANIFEST_FILE}`);
      }
    }
    for (const name of files.keys()) {
      const entry = entries.get(name);
      if (!entry) fail("file-missing", `${name} is listed and missing`);
      this.#checkSize(name, entry.size);
    }
    for (const name of files.keys()) {
      const { source } = this;
      if (this.verify === "full" && source.pieces) await this.#checkHash(name, source.pieces(name));
      else if (this.verify === "full") await this.read(name);
    }
  }

  #checkSize(name: string, size: number): void {
    const entry = this.manifest.files.get(name);
    if (!entry) fail("file-unlisted", `${shown(name)} is not listed in ${MANIFEST_FILE}`);
    if (size !== entry.size) {
      fail("file-size", `${name} has ${size} bytes, ${MANIFEST_FILE} says ${entry.size}`);
    }
  }

  async #checkHash(name: string, parts: Parameters<Hashing["sha256"]>[0]): Promise<void> {
    if (this.verify === "size" || this.#checked.has(name)) return;
    const found = await this.hashing.sha256(parts);
    const { sha256 } = this.manifest.files.get(name)!;
    if (found !== sha256) {
      fail(
        "file-hash",
        `${name} has SHA-256 ${found}, ${MANIFEST_FILE} lists ${sha256}: it was altered, get the bundle again`,
      );
    }
    this.#checked.add(name);
  }
}

type Entries = Awaited<ReturnType<NonNullable<Source["list"]>>>;

async function listed(source: Source): Promise<Entries | undefined> {
  const entries = await source.list?.();
  for (const [name, { kind }] of entries ?? []) {
    if (kind === "link") fail("file-is-link", `${shown(name)} is a link`);
    if (kind === "other") fail("file-not-regular", `${shown(name)} is no plain file`);
  }
  return entries;
}

async function manifestBytes(source: Source, entries: Entries | undefined): Promise<Uint8Array> {
  const told = entries?.get(MANIFEST_FILE);
  if (entries && !told) fail("file-missing", `has no ${MANIFEST_FILE}; is this a bundle?`);
  const bytes =
    told && told.size > MAX_MANIFEST_BYTES ? undefined : await source.read(MANIFEST_FILE);
  if (!told && !bytes) fail("bundle-not-found", `there is no ${MANIFEST_FILE} here`);
  if (!bytes || bytes.length > MAX_MANIFEST_BYTES) {
    fail("file-too-large", `${MANIFEST_FILE} has more than ${MAX_MANIFEST_BYTES} bytes`);
  }
  return bytes;
}

function located(error: unknown, label: string): DstError {
  if (error instanceof DstError)
    return error.message.startsWith(label) ? error : error.within(label);
  return new DstError("bundle-unreadable", `${label}: cannot be read: ${firstLine(error)}`, {
    cause: error,
  });
}
