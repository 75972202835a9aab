// Read JSON without losing what JSON.parse loses, and spell it in the canonical form of FORMAT.md.
//
// An integer is read as a bigint and a number with a point or an exponent as a number: the format
// tells them apart, and an int64 does not fit into a number. An object is read as a Map.

export type Json = null | boolean | bigint | number | string | Json[] | JsonObject;
export type JsonObject = Map<string, Json>;

const MAX_DEPTH = 64; // deeper than anything the formats hold, and shallow enough for recursion
const MAX_DIGITS = 1000;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids them in texts
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const ESCAPES: Record<string, string> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

/** Throws Error with one line where the bytes are no JSON in UTF-8. */
export function parseJson(bytes: Uint8Array): Json {
  // a byte order mark is kept, so that it is refused like any other character before the value
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  return new Parser(text).whole();
}

class Parser {
  #at = 0;

  constructor(private readonly text: string) {}

  whole(): Json {
    const value = this.#value(0);
    this.#space();
    if (this.#at < this.text.length) this.#refuse("expected its end");
    return value;
  }

  #refuse(what: string): never {
    throw new Error(`no JSON: ${what} at character ${this.#at}`);
  }

  #space(): void {
    while (" \t\n\r".includes(this.text[this.#at] ?? "x")) this.#at++;
  }

  #take(text: string): boolean {
    if (!this.text.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }

  #value(depth: number): Json {
    if (depth > MAX_DEPTH) this.#refuse("nested too deeply");
    this.#space();
    switch (this.text[this.#at]) {
      case "{":
        return this.#object(depth);
      case "[":
        return this.#list(depth);
      case '"':
        return this.#string();
      default:
        if (this.#take("true")) return true;
        if (this.#take("false")) return false;
        if (this.#take("null")) return null;
        return this.#number();
    }
  }

  #object(depth: number): JsonObject {
    const found: JsonObject = new Map();
    this.#at++;
    this.#space();
    if (this.#take("}")) return found;
    for (;;) {
      this.#space();
      if (this.text[this.#at] !== '"') this.#refuse("expected a name");
      const name = this.#string();
      this.#space();
      if (!this.#take(":")) this.#refuse("expected a colon");
      found.set(name, this.#value(depth + 1));
      this.#space();
      if (this.#take("}")) return found;
      if (!this.#take(",")) this.#refuse("expected a comma");
    }
  }

  #list(depth: number): Json[] {
    const found: Json[] = [];
    this.#at++;
    this.#space();
    if (this.#take("]")) return found;
    for (;;) {
      found.push(this.#value(depth + 1));
      this.#space();
      if (this.#take("]")) return found;
      if (!this.#take(",")) this.#refuse("expected a comma");
    }
  }

  #string(): string {
    let found = "";
    this.#at++;
    for (;;) {
      PLAIN.lastIndex = this.#at;
      const plain = PLAIN.exec(this.text)![0];
      found += plain;
      this.#at += plain.length;
      if (this.#take('"')) break;
      if (!this.#take("\\")) this.#refuse("expected the end of a text");
      const letter = this.text[this.#at++] ?? "";
      const hex = this.text.slice(this.#at, this.#at + 4);
      if (letter === "u" && /^[0-9a-fA-F]{4}$/.test(hex)) {
        found += String.fromCharCode(Number.parseInt(hex, 16));
        this.#at += 4;
      } else if (letter in ESCAPES) {
        found += ESCAPES[letter];
      } else {
        this.#refuse("unknown escape");
      }
    }
    if (/\p{Cs}/u.test(found)) this.#refuse("half of a surrogate pair");
    return found;
  }

  #number(): bigint | number {
    NUMBER.lastIndex = this.#at;
    const [text, fraction, exponent] = NUMBER.exec(this.text) ?? this.#refuse("expected a value");
    if (text.length > MAX_DIGITS) this.#refuse("a number of too many digits");
    this.#at += text.length;
    if (fraction === undefined && exponent === undefined) return BigInt(text);
    const value = Number(text);
    if (!Number.isFinite(value)) this.#refuse("a number that is not finite");
    return value;
  }
}

export function canonical(value: Json): string {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") return numberText(value);
  if (typeof value === "string") return quoted(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const names = [...value.keys()].sort(byCodePoint);
  return `{${names.map((n) => `${quoted(n)}:${canonical(value.get(n)!)}`).join(",")}}`;
}

/** JSON.stringify escapes just what the canonical form escapes, halves of surrogate pairs aside. */
export const quoted = (text: string): string => JSON.stringify(text);

/** The order of UTF-8's bytes, which is not that of UTF-16's units. */
export function byCodePoint(a: string, b: string): number {
  const [left, right] = [[...a], [...b]];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = left[i]!.codePointAt(0)! - right[i]!.codePointAt(0)!;
    if (difference) return difference;
  }
  return left.length - right.length;
}

/** The shortest decimal that reads back as the same float64, spelled as Python spells it. */
export function numberText(value: number): string {
  return Object.is(value, -0) ? "-0.0" : pythonic(value.toExponential());
}

/**
 * The same for the float32 or float16 that a value is.
 *
 * Of the decimals with the fewest digits the closest, of two as close the even one. In whole numbers:
 * a decimal close to the middle of two values would be rounded twice on its way through a float64.
 */
export function narrowText(value: number, dtype: "float32" | "float16"): string {
  if (value === 0) return numberText(value);
  const size = Math.abs(value);
  const [bits, least] = dtype === "float32" ? [24, -149] : [11, -24];
  let exponent = least;
  while (size >= 2 ** (exponent + bits)) exponent++;
  const whole = size / 2 ** exponent;
  // in quarters of the last bit; the values below a power of two are closer than those above it
  const below = whole === 2 ** (bits - 1) && exponent > least ? 1n : 2n;
  const even = whole % 2 === 0; // to which the middle of two values is read
  for (let place = Number(size.toExponential().split("e")[1]); ; place--) {
    const step = 10n ** over(place) * 2n ** over(2 - exponent);
    const unit = 10n ** over(-place) * 2n ** over(exponent - 2);
    const exact = 4n * BigInt(whole) * unit;
    const floor = exact / step;
    const down = exact - floor * step;
    const up = step - down;
    const fits = (off: bigint, room: bigint) => off < room || (even && off === room);
    const low = fits(down, below * unit);
    const high = fits(up, 2n * unit);
    if (!low && !high) continue;
    const closer = down < up || (down === up && floor % 2n === 0n);
    const best = low && (closer || !high) ? floor : floor + 1n;
    return (value < 0 ? "-" : "") + numberText(Number(`${best}e${place}`));
  }
}

const over = (value: number): bigint => BigInt(Math.max(value, 0));

/** FORMAT.md's name. */
export function isName(text: string): boolean {
  const count = [...text].length;
  return count >= 1 && count <= 200 && !text.includes("\0") && text !== "__proto__";
}

/** Turn "d.ddde±x" into Python's spelling: positional from 1e-4 up to 1e16, else an exponent. */
function pythonic(scientific: string): string {
  const [mantissa, power] = scientific.split("e") as [string, string];
  const sign = mantissa.startsWith("-") ? "-" : "";
  const digits = mantissa.replace(/[-.]/g, "").replace(/(?<=.)0+$/, "");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const tail = `e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
    return sign + digits[0] + (digits.length > 1 ? `.${digits.slice(1)}` : "") + tail;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}
