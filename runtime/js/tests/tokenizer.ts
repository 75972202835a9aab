// Encode and decode the texts of a JSON list by a tokenizer.json, for tests/test_js.py.
//
//   node build/tests/tokenizer.js TOKENIZER TEXTS

import { readFile } from "node:fs/promises";
import { Tokenizer } from "@huggingface/tokenizers";
import { type Bundle, TextTokenizer } from "../src/index.js";

const [file, texts] = process.argv.slice(2) as [string, string];
// all that a tokenizer uses of a bundle
const bundle = {
  label: file,
  manifest: { contract: { chunk: { content: { kind: "tokens", tokenizer: "tokenizers" } } } },
  read: () => readFile(file),
} as unknown as Bundle;
const tokenizer = await TextTokenizer.of(bundle, Tokenizer);
const found = (JSON.parse(texts) as string[]).map((text) => {
  const ids = tokenizer.encode(text);
  const decoder = tokenizer.decoder();
  const streamed = ids.map((id) => decoder.feed(id)).join("") + decoder.end();
  return { ids, decoded: tokenizer.decode(ids), streamed };
});
console.log(JSON.stringify(found));
