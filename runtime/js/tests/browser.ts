// The conformance suite in Chromium, over onnxruntime-web.
//
//   node build/tests/browser.js [--provider webgpu]
//
// CHROMIUM names the browser, /usr/bin/chromium by default. Nothing is fetched from the network.

import { createReadStream } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { fromText } from "./carry-on.js";
import { type Result, summary } from "./conformance.js";
import { readSuite, SUITE } from "./node.js";

const PACKAGE = fileURLToPath(new URL("../..", import.meta.url));
const TYPES: Record<string, string> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

const PAGE = (module: string) => `<!doctype html>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>tests</title>
<script type="importmap">
{"imports": {"hash-wasm": "/node_modules/hash-wasm/dist/index.esm.js"}}
</script>
<script type="module">
import * as ort from "/node_modules/onnxruntime-web/dist/${module}";
ort.env.wasm.numThreads = 1;
globalThis.ort = ort;
await import("/build/tests/page.js");
</script>`;

/** A browser with the test page open. `bundles` is a folder whose bundles stand below /bundles/. */
export async function openPage(
  provider: string,
  bundles: string,
): Promise<{ page: Page; browser: Browser; close: () => Promise<void> }> {
  const server = await serve(provider, bundles);
  const webgpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...(provider === "webgpu" ? webgpu : ["--disable-gpu"]),
    ],
  });
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(`page: ${error}`));
  await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  await page.waitForFunction("globalThis.tests", null, { timeout: 60_000 });
  const close = async () => {
    await browser.close();
    server.close();
  };
  return { page, browser, close };
}

async function serve(provider: string, bundles: string): Promise<Server> {
  const suite = await readSuite();
  const html = PAGE(provider === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs");
  const server = createServer((request, response) => {
    const url = decodeURIComponent(new URL(request.url!, "http://localhost").pathname);
    response.setHeader("Content-Type", TYPES[path.extname(url)] ?? "application/octet-stream");
    if (url === "/") return response.setHeader("Content-Type", "text/html").end(html);
    if (url === "/suite.json") return response.end(JSON.stringify([...suite.keys()]));
    const [, top, rest = ""] = /^\/([^/]+)\/(.*)$/.exec(url) ?? [];
    const roots: Record<string, string> = {
      suite: SUITE,
      bundles,
      build: path.join(PACKAGE, "build"),
      node_modules: path.join(PACKAGE, "node_modules"),
    };
    const root = roots[top ?? ""];
    if (!root || rest.includes("..")) return response.writeHead(404).end();
    return createReadStream(path.join(root, rest))
      .on("error", () => response.writeHead(404).end())
      .pipe(response);
  });
  await new Promise<void>((ready) => {
    server.listen(0, "127.0.0.1", ready);
  });
  return server;
}

async function main(): Promise<void> {
  const at = process.argv.indexOf("--provider");
  const provider = at < 0 ? "wasm" : process.argv[at + 1]!;
  const { browser, close, page } = await openPage(provider, SUITE);
  try {
    type Found = Omit<Result, "saved"> & { saved: Record<string, string> };
    const result = (await page.evaluate(`tests.conformance("${provider}")`)) as Found;
    const version = await page.evaluate("tests.version");
    for (const line of result.failed) console.log(`FAILED ${line}`);
    const suite = await readSuite();
    for (const [name, text] of Object.entries(result.saved)) {
      const expected = suite.get(`states/python/${name}.state`)!;
      if (Buffer.compare(fromText(text), expected) !== 0) {
        result.failed.push(name);
        console.log(`FAILED save/${name}: the browser saves other bytes than Python`);
      }
    }
    const title = `Chromium ${browser.version()}, onnxruntime-web ${version}, ${provider}`;
    console.log(`${title}: ${summary({ ...result, saved: {} })}`);
    process.exitCode = result.failed.length || result.passed.length < 100 ? 1 : 0;
  } finally {
    await close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
