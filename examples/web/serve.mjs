// Serve the folder that site.mjs has made, to this machine only.
//
//   node serve.mjs [FOLDER] [PORT]

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const TYPES = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};
// Whatever goes wrong, the page asks no other host.
const POLICY =
  "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; img-src 'self' data:";

export async function serve(folder, port = 0) {
  const root = path.resolve(folder);
  const server = createServer(async (request, response) => {
    const url = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const file = path.join(root, url.endsWith("/") ? `${url}index.html` : url);
    const held = file.startsWith(root + path.sep) && (await stat(file).catch(() => undefined));
    if (!held?.isFile()) return response.writeHead(404).end();
    response.writeHead(200, {
      "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream",
      "Content-Length": held.size,
      "Content-Security-Policy": POLICY,
      "Cache-Control": "no-cache",
    });
    createReadStream(file).pipe(response);
  });
  await new Promise((ready) => server.listen(port, "127.0.0.1", ready));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder = fileURLToPath(new URL("site", import.meta.url)), port = "8000"] = process.argv.slice(2);
  console.log((await serve(folder, Number(port))).url);
}
