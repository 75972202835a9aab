// Replay the golden runs of a bundle in Chromium, and print how far they are off, as JSON.
//
//   node build/tests/golden.js wasm|webgpu BUNDLE [OPTIONS]      OPTIONS are of Session.open, as JSON

import path from "node:path";
import type { GoldenCheck } from "../src/index.js";
import { openPage } from "./browser.js";

const [provider, bundle, more = "{}"] = process.argv.slice(2) as [string, string, string?];
const { close, page } = await openPage(provider, path.dirname(path.resolve(bundle)));
try {
  const options = { provider, olderRuntime: true, ...JSON.parse(more) };
  const address = `/files/${path.basename(bundle)}`;
  const call = `tests.golden(${JSON.stringify(address)}, ${JSON.stringify(options)})`;
  const checks = (await page.evaluate(call)) as GoldenCheck[];
  console.log(JSON.stringify(checks, ["graph", "t", "steps", "worst", "tolerance", "passed"], 2));
  process.exitCode = checks.every((check) => check.passed) ? 0 : 1;
} finally {
  await close();
}
