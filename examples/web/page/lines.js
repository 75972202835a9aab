// The most surprising lines of all that a model has read, in fixed memory.
//
// They are ranked by bits per byte, the newline included, as `dst run --top` ranks them; of equals the
// earlier one goes first. Lines without any visible text are left out: in a text they are among the most
// surprising ones, by their only byte, and there is nothing to see of them.

const KEPT = 10;
const KEPT_BYTES = 160; // of a line's text; its bits and length count whole
const NEWLINE = 10;
const SPACE = 32;

export class OddLines {
  #kept = []; // { line, bits, size, text }, the most surprising one first
  #line = 1; // where the model reads now
  #bits = 0;
  #size = 0;
  #head = [];

  /** Read on. A byte that nothing has predicted has NaN for its bits, and counts as expected. */
  add(bytes, bits) {
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i];
      if (bits[i] === bits[i]) this.#bits += bits[i];
      this.#size++;
      if (byte !== NEWLINE) {
        if (this.#head.length < KEPT_BYTES) this.#head.push(byte);
        continue;
      }
      if (this.#counts()) this.#kept = this.#with();
      this.#line++;
      this.#bits = 0;
      this.#size = 0;
      this.#head.length = 0;
    }
  }

  /** The lines kept. At the end of an input a line without a newline is one of them. */
  top(ended) {
    return ended && this.#size && this.#counts() ? this.#with() : this.#kept;
  }

  /** All of it, for JSON. */
  held() {
    return { kept: this.#kept, line: this.#line, bits: this.#bits, size: this.#size, head: this.#head };
  }

  static from({ kept, line, bits, size, head }) {
    const lines = new OddLines();
    lines.#kept = kept;
    [lines.#line, lines.#bits, lines.#size, lines.#head] = [line, bits, size, head];
    return lines;
  }

  #counts() {
    const last = this.#kept[KEPT - 1];
    const odd = !last || this.#bits / this.#size > last.bits / last.size;
    return odd && this.#head.some((byte) => byte > SPACE);
  }

  /** The lines kept and the one that is read now. */
  #with() {
    const one = { line: this.#line, bits: this.#bits, size: this.#size, text: this.#text() };
    const rate = one.bits / one.size;
    const place = this.#kept.findIndex(({ bits, size }) => rate > bits / size);
    const at = place < 0 ? this.#kept.length : place;
    return [...this.#kept.slice(0, at), one, ...this.#kept.slice(at)].slice(0, KEPT);
  }

  #text() {
    const bytes = Uint8Array.from(this.#head);
    const cut = this.#size > bytes.length + 1;
    const text = new TextDecoder().decode(bytes, { stream: cut }); // a letter that is cut in two is left out
    return text.replace(/\p{C}/gu, escaped) + (cut ? "\u2026" : "");
  }
}

/** What cannot be seen, or would turn the text around it, in letters. */
const escaped = (letter) => ({ "\t": "\\t", "\r": "\\r" })[letter] ?? `\\u{${letter.codePointAt(0).toString(16)}}`;
