// Drive the page in headless Chromium, and print what was found as JSON.
//
//   node drive.mjs SITE TEXT [--bytes 60000] [--model log]     what the page promises
//   node drive.mjs SITE TEXT --bench [--bytes 5000000]         its speed and memory
//   node drive.mjs SITE TEXT --shots FOLDER                    pictures of it, wide and narrow
//
// CHROMIUM names the browser, /usr/bin/chromium by default. Nothing is fetched from the network.

import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { sampleLog } from "./page/sample.js";
import { serve } from "./serve.mjs";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    bench: { type: "boolean", default: false },
    bytes: { type: "string", default: "" },
    model: { type: "string", default: "log" },
    shots: { type: "string" },
  },
});
const [site, text] = positionals;
const count = Number(values.bytes || (values.bench ? 5_000_000 : 60_000));
const whole = await readFile(text);
const input = Buffer.alloc(count);
for (let at = 0; at < count; at += whole.length) whole.copy(input, at); // repeated where it is short
const file = path.join(tmpdir(), `dst-web-${process.pid}.txt`);
await writeFile(file, input);

const ROUNDS = 20;
const WIDE = { width: 1040, height: 980 };
const NARROW = { width: 360, height: 780 };
const server = await serve(site);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    ...["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    ...["--disable-component-update", "--disable-sync", "--enable-precise-memory-info"],
  ],
});

async function visitor(viewport = WIDE) {
  const context = await browser.newContext({ viewport });
  const asked = [];
  const said = [];
  context.on("request", (request) => asked.push(request.url()));
  context.on("page", (page) => {
    page.on("console", (message) => message.type() === "error" && said.push(message.text()));
    page.on("pageerror", (error) => said.push(String(error)));
  });
  return { asked, context, said };
}

async function visit(context, query = `?model=${values.model}`) {
  const page = await context.newPage();
  await page.goto(server.url + query);
  await page.waitForFunction(() => ["paused", "done"].includes(document.body.dataset.state) || document.body.dataset.error, null, { timeout: 120_000 });
  return page;
}

const until = (page, state, timeout = 1_200_000) =>
  page.waitForFunction((wanted) => document.body.dataset.state === wanted || document.body.dataset.error, state, { timeout });

/** What the page shows of a model, by the names that it shows. */
const facts = (page, model) =>
  page.evaluate((id) => {
    const rows = [...document.querySelectorAll(`#${id} dl div`)];
    return Object.fromEntries(rows.map((row) => [row.children[0].textContent, row.children[1].textContent]));
  }, model);

/** The list of the most surprising lines. */
const odd = (page) =>
  page.evaluate(() =>
    [...document.querySelectorAll("#odd li")].map((row) => {
      const [line, rate, bits] = row.children[0].textContent.replaceAll(",", "").match(/[\d.]+/g).map(Number);
      return { line, rate, bits, text: row.children[1].textContent };
    }),
  );

/** The SHA-256 of each saved state in the page's database. */
const states = (page) =>
  page.evaluate(async () => {
    const { IndexedDbStore } = await import("./lib/dst-edge/index.js");
    const store = await IndexedDbStore.open("dst-web");
    const found = {};
    for (const name of await store.names()) {
      const digest = await crypto.subtle.digest("SHA-256", await store.read(name));
      found[name] = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    }
    store.close();
    return found;
  });

async function readAll() {
  const { asked, context, said } = await visitor();
  const page = await visit(context);
  await page.setInputFiles("#file", file);
  await until(page, "done");
  const found = {
    error: await page.evaluate(() => document.body.dataset.error ?? null),
    float32: await facts(page, "float32"),
    int8: await facts(page, "int8"),
    odd: await odd(page),
    states: await states(page),
    elsewhere: asked.filter((url) => !url.startsWith(server.url)),
    said,
  };
  await context.close();
  return found;
}

/** Close the tab in the middle, open it again, and go on. */
async function interrupted() {
  const { context } = await visitor();
  const first = await visit(context);
  await first.setInputFiles("#file", file);
  while (Object.keys(await states(first)).length < 4) await first.waitForTimeout(50); // state and notes of each model
  await first.close();
  const second = await visit(context);
  const stood = await facts(second, "float32");
  const state = await second.evaluate(() => document.body.dataset.state);
  if (state === "paused") await second.click("#go");
  await until(second, "done");
  const found = {
    ...{ stood, state },
    ...{ float32: await facts(second, "float32"), odd: await odd(second), states: await states(second) },
  };
  await context.close();
  return found;
}

/** One odd line at three quarters of a log of 20 kB; then the tab is closed and opened again. */
async function planted() {
  const { context } = await visitor();
  const first = await visit(context);
  const lines = sampleLog(410).split("\n").filter((line) => /web: GET|queue: job/.test(line));
  const line = Math.floor(lines.length * 0.75);
  const text = `${lines[line].slice(0, 20)}raid: md0 degraded, disk sdb1 has failed`;
  lines.splice(line, 0, text);
  const log = Buffer.from(`${lines.join("\n")}\n`);
  await first.setInputFiles("#file", { name: "log", mimeType: "text/plain", buffer: log });
  await until(first, "done");
  const listed = await odd(first);
  await first.close();
  const second = await visit(context);
  const again = await odd(second);
  await second.click("#forget");
  await until(second, "done");
  await second.waitForFunction(() => document.getElementById("odd").hidden);
  await context.close();
  return { bytes: log.length, line: line + 1, text, listed, again };
}

/** After the first load the server goes away. */
async function offline() {
  const { context, said } = await visitor();
  const first = await visit(context);
  await first.evaluate(() => navigator.serviceWorker.ready);
  await first.waitForFunction(() => navigator.serviceWorker.controller, null, { timeout: 120_000 });
  await first.close();
  await context.setOffline(true);
  const page = await visit(context);
  await page.click("#sample");
  await until(page, "done");
  const found = { float32: await facts(page, "float32"), said };
  await context.close();
  return found;
}

/** By the keyboard alone, on a narrow screen; and what axe finds. */
async function accessible() {
  const { context } = await visitor(NARROW);
  const page = await visit(context);
  await page.focus("#line");
  for (let i = 0; i < 4; i++) {
    await page.keyboard.type("GET /index.html 200 ok");
    await page.keyboard.press("Enter");
    await until(page, "done");
  }
  await page.keyboard.type("disk failure on /dev/sda1");
  await page.keyboard.press("Enter");
  await until(page, "done");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  const shown = await page.evaluate(() => document.querySelector("#float32 pre").textContent);
  const axe = await readFile(fileURLToPath(import.meta.resolve("axe-core")), "utf8");
  const faults = [];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    faults.push(...violations.map(({ id, nodes }) => `${colorScheme}: ${id}: ${nodes[0].html}`));
  }
  await context.close();
  return { width: wide, shown, faults };
}

async function shots(folder) {
  for (const [name, viewport] of Object.entries({ wide: WIDE, narrow: NARROW })) {
    const { context } = await visitor(viewport);
    const page = await visit(context);
    await page.click("#sample");
    await until(page, "done");
    await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
    await context.close();
  }
}

/** Two bare loops in the page, one for each of its models: opened once, then given bytes. */
async function bareLoops(page, models) {
  const ask = ([index, message]) =>
    new Promise((resolve, reject) => {
      globalThis.loops ??= [];
      globalThis.loops[index] ??= new Worker("bare.js", { type: "module" });
      globalThis.loops[index].onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
      globalThis.loops[index].postMessage(message);
    });
  const tell = (messages) => page.evaluate(`Promise.all(${JSON.stringify([...messages.entries()])}.map(${READ_BASE64}).map(${ask}))`);
  const opened = await tell(models.map((model) => ({ model })));
  return { opened, read: (bytes) => tell(models.map(() => ({ base64: bytes.toString("base64") }))) };
}

// bytes reach the page as text
const READ_BASE64 = `([index, { base64, ...rest }]) =>
  [index, base64 ? { bytes: Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)) } : rest]`;

/** JavaScript's memory of the page and of each of its workers, after a garbage collection, in MiB. */
async function heaps(context, page) {
  const cdp = await context.newCDPSession(page);
  const attached = [];
  const answers = new Map();
  cdp.on("Target.attachedToTarget", ({ sessionId }) => attached.push(sessionId));
  cdp.on("Target.receivedMessageFromTarget", ({ message }) => {
    const { id, result } = JSON.parse(message);
    answers.get(id)?.(result);
  });
  const send = (sessionId, method) =>
    new Promise((resolve) => {
      answers.set(answers.size, resolve);
      const message = JSON.stringify({ id: answers.size - 1, method });
      cdp.send("Target.sendMessageToTarget", { sessionId, message });
    });
  await cdp.send("Target.setAutoAttach", { autoAttach: true, waitForDebuggerOnStart: false, flatten: false });
  const mebibytes = ({ usedSize, backingStorageSize }) => (usedSize + backingStorageSize) / 2 ** 20;
  await cdp.send("HeapProfiler.collectGarbage");
  const found = [mebibytes(await cdp.send("Runtime.getHeapUsage"))];
  for (const sessionId of attached) {
    await send(sessionId, "HeapProfiler.collectGarbage");
    found.push(mebibytes(await send(sessionId, "Runtime.getHeapUsage")));
  }
  await cdp.detach();
  return found.map((size) => +size.toFixed(2));
}

/**
 * The page's cost beside bare loops, and its memory: rounds in which they take turns.
 *
 * Both models of the page read at once, each in a worker, as two bare loops do. The cost is the CPU
 * time of all processes of the browser, since other programs of a busy machine do not count in it.
 */
async function bench() {
  const { context } = await visitor();
  const page = await visit(context);
  const names = [values.model, `${values.model}-int8`];
  const loops = await bareLoops(page, names);
  const size = Math.floor(count / ROUNDS);
  const system = await browser.newBrowserCDPSession();
  const cpuSeconds = async () => {
    const { processInfo } = await system.send("SystemInfo.getProcessInfo");
    return processInfo.reduce((sum, { cpuTime }) => sum + cpuTime, 0);
  };
  const rate = async (bytes, work) => {
    const [began, cpu] = [performance.now(), await cpuSeconds()];
    await work();
    const seconds = (performance.now() - began) / 1000;
    return { perSecond: Math.round(bytes / seconds), perCpuSecond: Math.round(bytes / ((await cpuSeconds()) - cpu)) };
  };
  const rounds = [];
  for (let end = size; end <= size * ROUNDS; end += size) {
    const part = input.subarray(end - size, end);
    const few = part.subarray(0, Math.max(2000, size / 10));
    const bare = await rate(few.length, () => loops.read(few));
    const streamed = await rate(size, async () => {
      await page.setInputFiles("#file", { name: "part", mimeType: "text/plain", buffer: part });
      await page.waitForFunction(allRead, `${end.toLocaleString("en")} B`, { polling: 50, timeout: 0 });
    });
    const [float32, int8] = [await facts(page, "float32"), await facts(page, "int8")];
    const heapMiB = await heaps(context, page);
    const ratio = +(streamed.perCpuSecond / bare.perCpuSecond).toFixed(3);
    rounds.push({ read: end, bare, page: streamed, ratio, wasm: [float32.Memory, int8.Memory], heapMiB });
    console.error(JSON.stringify(rounds.at(-1)));
  }
  await context.close();
  const ratios = rounds.map(({ ratio }) => ratio).sort((a, b) => a - b);
  return { models: names, graphs: loops.opened, bytes: count, median: ratios[ROUNDS >> 1], least: ratios[0], rounds };
}

/** Whether both models of the page stand at the end of what they were given. */
const allRead = (end) => {
  if (document.body.dataset.error) throw new Error(document.getElementById("status").textContent);
  const places = [...document.querySelectorAll("#float32 dl div:first-child dd, #int8 dl div:first-child dd")];
  return document.body.dataset.state === "done" && places.every((place) => place.textContent === end);
};

try {
  const found = { browser: browser.version(), cpus: (await import("node:os")).cpus()[0].model };
  if (values.bench) {
    found.bench = await bench();
  } else if (values.shots) {
    await shots(values.shots);
  } else {
    found.whole = await readAll();
    if (!found.whole.error) {
      found.interrupted = await interrupted();
      found.planted = await planted();
      found.offline = await offline();
      found.accessible = await accessible();
    }
  }
  console.log(JSON.stringify(found, null, 2));
} finally {
  await browser.close();
  server.close();
}
