// The input as one long tape: what was typed or dropped, one after the other, by absolute position.
//
// Each model stands somewhere on the tape and reads on. What all models have read is dropped; the rest
// is kept in the browser's database, so that a closed page goes on where it stood.

import { IndexedDbStore } from "./lib/dst-edge/index.js";

const KEPT_BYTES = 64 * 2 ** 20;

export class Tape {
  #store;
  #key;

  static async open(key) {
    const tape = new Tape();
    tape.#key = key;
    tape.#store = await IndexedDbStore.open("dst-web-tape");
    await tape.#load();
    return tape;
  }

  /** Where the tape ends. */
  get end() {
    return this.start + this.bytes.length;
  }

  /** Put bytes behind the end. `least` is the position that no model stands before. */
  async append(bytes, least) {
    const kept = this.bytes.subarray(Math.min(least, this.end) - this.start);
    const all = new Uint8Array(kept.length + bytes.length);
    all.set(kept);
    all.set(bytes, kept.length);
    this.start = this.end - kept.length;
    this.bytes = all;
    await this.#save();
  }

  /** Forget everything; the tape then begins at 0. */
  async clear() {
    await this.skipTo(0);
  }

  /** Begin anew at a position that models have reached. */
  async skipTo(position) {
    this.start = position;
    this.bytes = new Uint8Array(0);
    await this.#save();
  }

  async #load() {
    this.start = 0;
    this.bytes = new Uint8Array(0);
    if (!(await this.#store.names()).includes(this.#key)) return;
    const held = await this.#store.read(this.#key);
    this.start = new DataView(held.buffer, held.byteOffset).getFloat64(0);
    this.bytes = held.subarray(8);
  }

  async #save() {
    const size = Math.min(this.bytes.length, KEPT_BYTES); // what is longer must be dropped again
    const held = new Uint8Array(8 + size);
    new DataView(held.buffer).setFloat64(0, this.start);
    held.set(this.bytes.subarray(0, size), 8);
    await this.#store.write(this.#key, held);
  }
}
