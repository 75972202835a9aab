// What the tests in Node share: the suite's bundles, a folder to work in, and expected errors.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after } from "node:test";
import { fileURLToPath } from "node:url";
import * as ort from "onnxruntime-node";
import { DstError, Session, type SessionOptions } from "../src/index.js";
import { folder } from "../src/node.js";

export const ROOT = fileURLToPath(new URL("../../../..", import.meta.url));
export const SUITE = path.join(ROOT, "tests/conformance");
export const work = await mkdtemp(path.join(tmpdir(), "dst-"));
after(() => rm(work, { recursive: true }));

/** Open a bundle of the suite. */
export const open = (name: string, options: SessionOptions = {}) =>
  Session.open(ort, folder(path.join(SUITE, "bundles", name)), options);

/** What `assert.rejects` takes for a DstError with this code. */
export function refusedBy(code: string) {
  return (error: unknown) => {
    assert.ok(error instanceof DstError, String(error));
    assert.equal(error.code, code);
    return true;
  };
}
