// A bundle and a text in; served to headless Chromium; what index.html found out, as JSON.
//
//   npm install && node drive.mjs BUNDLE TEXT [--provider wasm|webgpu] [--bytes 65536]
//
// CHROMIUM names the browser, /usr/bin/chromium by default. Nothing is fetched from the network.

import { createReadStream } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    provider: { type: "string", default: "wasm" },
    bytes: { type: "string", default: "65536" },
  },
});
if (positionals.length !== 2) {
  console.error("usage: node drive.mjs BUNDLE TEXT [--provider wasm|webgpu] [--bytes 65536]");
  process.exit(2);
}
const [bundle, text] = positionals.map((name) => path.resolve(name));
const here = path.dirname(fileURLToPath(import.meta.url));
const ort = path.dirname(fileURLToPath(import.meta.resolve("onnxruntime-web")));
const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

function place(url) {
  if (url === "/text") return text;
  if (url.startsWith("/bundle/")) return path.join(bundle, path.basename(url));
  if (url.startsWith("/ort/")) return path.join(ort, path.basename(url));
  return path.join(here, path.basename(url) || "index.html");
}

const server = createServer((request, response) => {
  const file = place(new URL(request.url, "http://localhost").pathname);
  response.setHeader("Content-Type", TYPES[path.extname(file)] ?? "application/octet-stream");
  createReadStream(file)
    .on("error", () => response.writeHead(404).end())
    .pipe(response);
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));

const args = [
  "--no-sandbox",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
args.push(
  ...(values.provider === "webgpu"
    ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    : ["--disable-gpu"]),
);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args,
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(`page: ${message.text()}`));
  page.on("pageerror", (error) => console.error(`page: ${error}`));
  const { port } = server.address();
  await page.goto(`http://127.0.0.1:${port}/?provider=${values.provider}&bytes=${values.bytes}`);
  await page.waitForFunction("window.result", null, { timeout: 900_000 });
  const result = await page.evaluate("window.result");
  console.log(JSON.stringify({ browser: browser.version(), ...result }, null, 2));
  process.exitCode = result.error || !result.checks.every((check) => check.passed) ? 1 : 0;
} finally {
  await browser.close();
  server.close();
}
