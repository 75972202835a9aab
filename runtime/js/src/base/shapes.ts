// Shapes with letters: "B" for batch, "T" for the items of a chunk.

export type Axis = number | "B" | "T";
export type Shape = readonly Axis[];

/** A shape with numbers in place of its letters; B is 1. */
export function sized(shape: Shape, t: number): number[] {
  return shape.map((axis) => (axis === "B" ? 1 : axis === "T" ? t : axis));
}

/** The axes that are neither batch nor time. */
export function fixedAxes(shape: Shape): number[] {
  return shape.filter((axis) => typeof axis === "number");
}

export function product(sizes: readonly number[]): number {
  return sizes.reduce((all, size) => all * size, 1);
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

export function spelled(sizes: readonly (number | string)[]): string {
  return `[${sizes.join(", ")}]`;
}
