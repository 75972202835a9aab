// Refuse arguments that TypeScript would have refused: most callers write JavaScript.

import { fail, shown } from "./errors.js";

/** Throws DstError, `argument` by default, where an argument is not what it must be. */
export function expect(
  name: string,
  value: unknown,
  wanted: string,
  good: boolean,
  code = "argument",
): void {
  if (!good) fail(code, `${name} is ${spelledOut(value)}, expected ${wanted}`);
}

function spelledOut(value: unknown): string {
  if (typeof value === "string") return shown(JSON.stringify(value));
  if (typeof value !== "object" || value === null) return shown(String(value));
  return `of type ${shown(String(value.constructor?.name ?? "Object"))}`;
}

export const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null;

/** What an option that may be left out must be where it is given; null is no way to leave it out. */
type Kind = "boolean" | "string" | "object" | readonly string[];

/** Check options by name. Throws DstError, `argument`. */
export function expectOptions(
  options: object | undefined,
  kinds: Readonly<Record<string, Kind>>,
): void {
  expect("options", options, "an object", isObject(options));
  for (const [name, kind] of Object.entries(kinds)) {
    const value = (options as Record<string, unknown>)[name];
    if (value === undefined) continue;
    if (typeof kind === "object") {
      expect(name, value, `one of ${kind.join(", ")}`, kind.includes(value as string));
    } else {
      const good = kind === "object" ? isObject(value) : typeof value === kind;
      expect(name, value, `${kind === "object" ? "an" : "a"} ${kind}`, good);
    }
  }
}
