// Compare the inputs and outputs of an open graph with the contract.

import type { Dtype } from "../base/dtype.js";
import { fail, shown } from "../base/errors.js";
import type { Shape } from "../base/shapes.js";
import type { Contract, Graph } from "../bundle/manifest.js";
import type { OrtSession } from "./ort.js";

interface Port {
  dtype: Dtype;
  shape: Shape;
  /** What a static axis may be where the contract says T. */
  lengths: number[];
}

type Told = {
  name: string;
  isTensor: boolean;
  type?: string;
  shape?: readonly (number | string)[];
};

/** Throws DstError, `graph`. Where the platform does not tell shapes, names alone are compared. */
export function checkGraph(
  where: string,
  graph: Graph,
  contract: Contract,
  session: OrtSession,
): void {
  const { chunk } = contract;
  const lengths = graph.allowedT.length === 1 ? graph.allowedT : [];
  const windows = lengths.map((t) => chunk.lookback + t + chunk.lookahead);
  const port = ({ dtype, shape }: { dtype: Dtype; shape: Shape }): Port => {
    return { dtype, shape, lengths };
  };
  const inputs = new Map<string, Port>([[chunk.input, { ...port(chunk), lengths: windows }]]);
  const outputs = new Map<string, Port>();
  for (const one of [...contract.constants, ...contract.streamInputs]) {
    inputs.set(one.input, port(one));
  }
  // The length of this input is the number of items that are asked for.
  if (graph.answers !== null) {
    inputs.set(graph.answers, { dtype: "int64", shape: ["T"], lengths: [] });
  }
  for (const one of contract.outputs) outputs.set(one.name, port(one));
  for (const one of contract.state) {
    inputs.set(one.input, port(one));
    outputs.set(one.output, port(one));
  }
  compare(where, "input", inputs, told(session, "input"), graph);
  compare(where, "output", outputs, told(session, "output"), graph);
}

function told(session: OrtSession, kind: "input" | "output"): Told[] {
  try {
    const ports = kind === "input" ? session.inputMetadata : session.outputMetadata;
    if (ports) return ports as Told[];
  } catch {
    // onnxruntime-react-native does not tell; a wrong shape fails in the first step there
  }
  const names = kind === "input" ? session.inputNames : session.outputNames;
  return names.map((name) => ({ name, isTensor: true }));
}

function compare(
  where: string,
  kind: string,
  wanted: Map<string, Port>,
  found: Told[],
  graph: Graph,
): void {
  const names = new Set(found.map((port) => port.name));
  for (const name of wanted.keys()) {
    if (!names.has(name)) {
      fail("graph", `${where}: has no ${kind} ${shown(name)}, which the manifest names`);
    }
  }
  for (const port of found) {
    const expected = wanted.get(port.name);
    if (!expected) {
      fail("graph", `${where}: has ${kind} ${shown(port.name)}, which the manifest does not name`);
    }
    if (!port.isTensor || (port.type !== undefined && !fits(port, expected, graph))) {
      const is = `${port.type} [${port.shape}]`;
      const says = `${expected.dtype} [${expected.shape}]`;
      fail("graph", `${where}: ${kind} ${shown(port.name)} is ${is}, the manifest says ${says}`);
    }
  }
}

/** A symbolic axis of the graph fits any size; a static one must be the contract's. */
function fits(port: Told, { dtype, shape, lengths }: Port, graph: Graph): boolean {
  const sizes = port.shape ?? [];
  if (port.type !== dtype || sizes.length !== shape.length) return false;
  const batch = graph.batch.length ? graph.batch : [1];
  return shape.every((axis, i) => {
    const size = sizes[i]!;
    if (typeof size !== "number" || size < 0) return true;
    if (axis === "B") return batch.includes(size);
    return axis === "T" ? lengths.includes(size) : axis === size;
  });
}
