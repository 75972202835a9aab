// The one error of this package, and helpers for its messages.

/**
 * Anything this package refuses or cannot do.
 *
 * `code` is a stable name of the fault in kebab case, the same in every language: the page of the
 * format lists the codes of bundles and saved states, the page of the conformance suite those of
 * calls. `message` is one line for people.
 */
export class DstError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "DstError";
    this.code = code;
  }

  /** The same error, with the place where it happened before its message. */
  within(place: string): DstError {
    return new DstError(this.code, `${place}: ${this.message}`, { cause: this.cause });
  }
}

export function fail(code: string, message: string): never {
  throw new DstError(code, message);
}

/** Foreign text for a message: without line breaks or anything else that a terminal would obey. */
export function shown(text: string): string {
  return text.replace(/\p{C}/gu, "?").slice(0, 300);
}

/** The first line of what another library has thrown. */
export function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return shown(text.trim().split("\n", 1)[0] ?? "");
}
