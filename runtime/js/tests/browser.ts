// The conformance suite in Chromium, over onnxruntime-web.
//
//   node build/tests/browser.js SUITE WORK [--save]      --save writes SUITE/states/chromium
//
// It needs no folder WORK. CHROMIUM names the browser, /usr/bin/chromium by default. Nothing is fetched from the network.

import { createReadStream } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium, type Page } from "playwright-core";
import type { Result } from "./conformance.js";
import { readSuite, report } from "./node.js";

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

/** A browser with the test page open. The files of `folder` stand below /files/. */
export async function openPage(
  provider: string,
  folder: string,
): Promise<{ page: Page; close: () => Promise<void> }> {
  const server = await serve(provider, folder);
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
  return { page, close };
}

async function serve(provider: string, folder: string): Promise<Server> {
  const html = PAGE(provider === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs");
  const server = createServer(async (request, response) => {
    const url = decodeURIComponent(new URL(request.url!, "http://localhost").pathname);
    response.setHeader("Content-Type", TYPES[path.extname(url)] ?? "application/octet-stream");
    if (url === "/") return response.setHeader("Content-Type", "text/html").end(html);
    if (url === "/files.json") {
      return response.end(JSON.stringify([...(await readSuite(folder)).keys()]));
    }
    const [, top, rest = ""] = /^\/([^/]+)\/(.*)$/.exec(url) ?? [];
    const roots: Record<string, string> = {
      files: folder,
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

async function main([root, work, save]: string[]): Promise<void> {
  if (!root || !work) throw new Error("usage: node build/tests/browser.js SUITE WORK [--save]");
  const { close, page } = await openPage("wasm", root);
  try {
    type Found = Omit<Result, "saved"> & { saved: Record<string, string> };
    const result = (await page.evaluate("tests.conformance()")) as Found;
    const bytes = Object.entries(result.saved).map(([name, text]) => [
      name,
      new Uint8Array(Buffer.from(text, "base64")),
    ]);
    const saved = Object.fromEntries(bytes);
    await report(root, "chromium", { ...result, saved }, save === "--save");
  } finally {
    await close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
