// Turn text into token ids and back: one id per byte, or by the tokenizer.json of a bundle.

import { DstError, fail, firstLine } from "./base/errors.js";
import type { Bundle } from "./bundle/bundle.js";
import { TOKENIZER_FILE } from "./bundle/validation.js";

/** The ids of a text whose tokens are bytes: its UTF-8. */
export function encodeBytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** The text of ids that are bytes; what is no UTF-8 becomes a replacement character. */
export function decodeBytes(ids: Iterable<number>): string {
  return new TextDecoder().decode(Uint8Array.from(ids));
}

/** What is used of `Tokenizer`, the class of the package @huggingface/tokenizers. */
export interface HuggingFaceTokenizer {
  encode(text: string, options?: { add_special_tokens?: boolean }): { ids: number[] };
  decode(ids: number[], options?: { skip_special_tokens?: boolean }): string;
}

export type HuggingFaceTokenizerClass = new (json: object, config: object) => HuggingFaceTokenizer;

/**
 * The tokenizer of a bundle whose contract says `tokenizers`.
 *
 * ```js
 * import { Tokenizer } from "@huggingface/tokenizers";
 * const tokenizer = await TextTokenizer.of(session.bundle, Tokenizer);
 * const decoder = tokenizer.decoder();
 * for await (const token of stream.generate(tokenizer.encode("Once upon a time"), 100)) {
 *   write(decoder.feed(token));
 * }
 * write(decoder.end());
 * ```
 */
export class TextTokenizer {
  private constructor(private readonly tokenizer: HuggingFaceTokenizer) {}

  /**
   * Read the tokenizer of a bundle.
   *
   * @throws DstError `no-tokenizer`, `tokenizer-unreadable`.
   */
  static async of(bundle: Bundle, Tokenizer: HuggingFaceTokenizerClass): Promise<TextTokenizer> {
    const { content } = bundle.manifest.contract.chunk;
    if (content.kind !== "tokens" || content.tokenizer !== "tokenizers") {
      fail("no-tokenizer", `${bundle.label}: has no ${TOKENIZER_FILE}; give token ids`);
    }
    const bytes = await bundle.read(TOKENIZER_FILE);
    try {
      const json = JSON.parse(new TextDecoder().decode(bytes)) as object;
      return new TextTokenizer(new Tokenizer(json, {}));
    } catch (error) {
      throw new DstError(
        "tokenizer-unreadable",
        `${bundle.label}: ${TOKENIZER_FILE}: @huggingface/tokenizers cannot read it: ${firstLine(error)}`,
        { cause: error },
      );
    }
  }

  /** The ids of a text; no special token is added. */
  encode(text: string): number[] {
    return this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  /** The text of ids; special tokens are left out. */
  decode(ids: Iterable<number>): string {
    const all = [...ids];
    return all.length ? this.tokenizer.decode(all, { skip_special_tokens: true }) : "";
  }

  /** A decoder for ids that come one after another. */
  decoder(): TextDecoderOfIds {
    return new TextDecoderOfIds(this);
  }
}

/** Turns ids into text as they come; a character is given when all of its bytes are there. */
export class TextDecoderOfIds {
  #ids: number[] = [];
  #given = 0; // characters of the text of these ids that were given

  constructor(private readonly tokenizer: TextTokenizer) {}

  /** Take one id and return the text that is complete now, often none. */
  feed(id: number): string {
    this.#ids.push(id);
    const text = this.tokenizer.decode(this.#ids);
    if (text.endsWith("\ufffd")) return ""; // the bytes of a character that goes on
    const fresh = text.slice(this.#given);
    // One id stays: how it begins (with a space or not) shows where the next one joins it.
    this.#ids = [id];
    this.#given = this.tokenizer.decode(this.#ids).length;
    return fresh;
  }

  /** What is left: a replacement character where the last one was never completed. */
  end(): string {
    const left = this.tokenizer.decode(this.#ids).slice(this.#given);
    this.#ids = [];
    this.#given = 0;
    return left;
  }
}
