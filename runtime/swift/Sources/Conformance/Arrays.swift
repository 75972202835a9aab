// The arrays of the conformance suite: tensors of a safetensors file, by name.
import DST
import Foundation

typealias Json = [String: Any]

/// A result is not what the suite expects; the message says where.
struct Wrong: Error {
  let message: String
}

func expect(_ good: Bool, _ what: @autoclosure () -> String) throws {
  if !good { throw Wrong(message: what()) }
}

func readJson(_ data: Data) throws -> Any {
  try JSONSerialization.jsonObject(with: data, options: [.fragmentsAllowed])
}

func readFile(_ path: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path)) }

private let dtypes: [String: DType] = [
  "F16": .float16, "F32": .float32, "F64": .float64, "I8": .int8,
  "I32": .int32, "I64": .int64, "U8": .uint8, "BOOL": .bool,
]

/// Read the tensors whose names begin with a prefix; their names here are without it.
func readArrays(_ path: String, prefix: String = "") throws -> [String: Tensor] {
  let file = try readFile(path)
  let size = file.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
  let header = try readJson(file.subdata(in: 8..<8 + size)) as! Json
  var arrays: [String: Tensor] = [:]
  for (name, told) in header where name != "__metadata__" && name.hasPrefix(prefix) {
    let tensor = told as! Json
    let offsets = tensor["data_offsets"] as! [Int]
    arrays[String(name.dropFirst(prefix.count))] = Tensor(
      dtype: dtypes[tensor["dtype"] as! String]!, shape: tensor["shape"] as! [Int],
      data: file.subdata(in: 8 + size + offsets[0]..<8 + size + offsets[1]))
  }
  return arrays
}

/// max|found - expected| / rms(expected) of floats; 0 where there is no difference.
func relativeError(_ found: Tensor, _ expected: Tensor) -> Double {
  let right = doubles(expected)
  let most = zip(doubles(found), right).map { abs($0 - $1) }.max() ?? 0
  let squares = right.reduce(0) { $0 + $1 * $1 }
  return most == 0 ? 0 : most / (squares / Double(right.count)).squareRoot()
}

private func doubles(_ tensor: Tensor) -> [Double] {
  switch tensor.dtype {
  case .float64: return tensor.doubles
  case .float32: return tensor.floats.map(Double.init)
  default:
    let bytes = [UInt8](tensor.data)
    return stride(from: 0, to: bytes.count, by: 2).map {
      halfToDouble(UInt16(bytes[$0]) | UInt16(bytes[$0 + 1]) << 8)
    }
  }
}

private func halfToDouble(_ bits: UInt16) -> Double {
  let exponent = Int(bits >> 10 & 31)
  let fraction = Double(bits & 1023) / 1024
  let size: Double
  switch exponent {
  case 0: size = fraction * 0x1p-14
  case 31: size = fraction == 0 ? .infinity : .nan
  default: size = Double(sign: .plus, exponent: exponent - 15, significand: 1 + fraction)
  }
  return bits & 0x8000 == 0 ? size : -size
}
