// A log of a small service, made up here: regular, with a few lines that are not.

export function sampleLog(lines = 1500) {
  let seed = 12345;
  const random = (below) => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % below;
  };
  const pick = (list) => list[random(list.length)];
  const odd = new Map([
    [Math.floor(lines * 0.45), "kernel: Out of memory: killed process 4242 (worker)"],
    [Math.floor(lines * 0.7), "sshd: Failed password for root from 203.0.113.99 port 51514"],
    [lines - 5, "worker: Segmentation fault at 0x7ffe08 (core dumped)"],
  ]);
  let seconds = 8 * 3600;
  const found = [];
  for (let i = 0; i < lines; i++) {
    seconds += random(3);
    const two = (value) => String(value).padStart(2, "0");
    const time = `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
    const page = pick(["/", "/index.html", "/api/items", "/api/login", "/img/logo.png"]);
    const usual = pick([
      `web: GET ${page} 200 ${random(40) + 1}ms`,
      `web: GET ${page} 200 ${random(40) + 1}ms`,
      `web: GET ${page} 304 ${random(4) + 1}ms`,
      `queue: job ${10000 + i} done in ${random(900) + 100}ms`,
    ]);
    found.push(`2026-11-29 ${time} ${odd.get(i) ?? usual}\n`);
  }
  return found.join("");
}
