// A small line chart in SVG: one line for each model, over the position on the tape.

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 400;
const HEIGHT = 120;
const POINTS = 400;

export class Chart {
  #lines;
  #svg;
  #scale;
  #unit;

  /** `unit(value)` spells a value; `lines` are the classes of the lines. */
  constructor(figure, lines, unit) {
    this.#unit = unit;
    this.#svg = figure.querySelector("svg");
    this.#svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#scale = figure.querySelector(".scale");
    this.#lines = lines.map((name) => {
      const path = document.createElementNS(NAMESPACE, "path");
      path.classList.add(name);
      this.#svg.append(path);
      return { path, points: [] };
    });
  }

  /** Add a point of a line. Where there are many, each second one goes. */
  add(line, x, y) {
    const { points } = this.#lines[line];
    if (!Number.isFinite(y)) return;
    points.push([x, y]);
    if (points.length > POINTS) this.#lines[line].points = points.filter((_, i) => i % 2 === 0 || i === points.length - 1);
  }

  clear() {
    for (const line of this.#lines) line.points = [];
    this.draw();
  }

  get points() {
    return this.#lines.map(({ points }) => points);
  }

  set points(all) {
    this.#lines.forEach((line, i) => {
      line.points = all[i] ?? [];
    });
    this.draw();
  }

  draw() {
    const all = this.points.flat();
    const [left, right] = [Math.min(...all.map(([x]) => x)), Math.max(...all.map(([x]) => x))];
    const top = Math.max(...all.map(([, y]) => y), Number.MIN_VALUE) * 1.1;
    this.#scale.textContent = all.length ? this.#unit(top / 1.1) : "";
    for (const { path, points } of this.#lines) {
      const place = ([x, y]) =>
        `${(((x - left) / (right - left || 1)) * WIDTH).toFixed(1)},${(HEIGHT * (1 - y / top)).toFixed(1)}`;
      path.setAttribute("d", points.length > 1 ? `M${points.map(place).join("L")}` : "");
    }
  }
}
