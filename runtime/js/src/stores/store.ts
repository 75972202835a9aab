// Where saved states are kept, by name.

import { expect } from "../base/arguments.js";

/** A place for saved states. Each write is whole or not at all, and keeps the state before it. */
export interface StateStore {
  /** @throws DstError `state-unwritable`, `not-synced`: it cannot be written. */
  write(name: string, bytes: Uint8Array): Promise<void>;
  /** @throws DstError `state-not-found`, `state-unreadable`: it cannot be read. */
  read(name: string): Promise<Uint8Array>;
  /** The state that was saved before the newest one. */
  readPrevious(name: string): Promise<Uint8Array>;
  /** Every name, sorted. */
  names(): Promise<string[]>;
  /** Delete a state and the one before it, if there are any. */
  delete(name: string): Promise<void>;
}

/** Throws DstError, `argument`. */
export function checkName(name: string): void {
  expect("the name of a state", name, "a text", typeof name === "string");
}

/** Throws DstError, `argument`. */
export function checkWrite(name: string, bytes: Uint8Array): void {
  checkName(name);
  expect(`state ${name}`, bytes, "a Uint8Array", bytes instanceof Uint8Array);
}
