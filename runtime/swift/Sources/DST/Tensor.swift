import Foundation

/// The data types of tensors, with the numbers of `dst_dtype`.
public enum DType: Int32, Sendable {
  case float16 = 0
  case float32, float64, int8, int32, int64, uint8, bool

  /// The bytes of one value.
  public var bytes: Int { [2, 4, 8, 1, 4, 8, 1, 1][Int(rawValue)] }
}

/// Values in C order, with their data type and shape.
public struct Tensor: Sendable, Equatable {
  public let dtype: DType
  public let shape: [Int]
  /// The bytes of the values, in the byte order of the machine.
  public let data: Data

  public init(dtype: DType, shape: [Int], data: Data) {
    precondition(
      data.count == shape.reduce(dtype.bytes, *),
      "data has \(data.count) bytes, expected \(shape.reduce(dtype.bytes, *)) for \(dtype) \(shape)")
    (self.dtype, self.shape, self.data) = (dtype, shape, data)
  }

  public init(_ values: [Float], shape: [Int]) {
    self.init(dtype: .float32, shape: shape, data: values.withUnsafeBytes { Data($0) })
  }

  public init(_ values: [Int64], shape: [Int]) {
    self.init(dtype: .int64, shape: shape, data: values.withUnsafeBytes { Data($0) })
  }

  public init(_ values: [Int32], shape: [Int]) {
    self.init(dtype: .int32, shape: shape, data: values.withUnsafeBytes { Data($0) })
  }

  /// The values of a float32 tensor.
  public var floats: [Float] { values(.float32) }
  /// The values of a float64 tensor.
  public var doubles: [Double] { values(.float64) }
  /// The values of an int64 tensor.
  public var int64s: [Int64] { values(.int64) }
  /// The values of an int32 tensor.
  public var int32s: [Int32] { values(.int32) }

  private func values<Value>(_ expected: DType) -> [Value] {
    precondition(dtype == expected, "the tensor is \(dtype), expected \(expected); use data for other types")
    return [Value](unsafeUninitializedCapacity: data.count / dtype.bytes) { room, count in
      count = data.copyBytes(to: room) / dtype.bytes
    }
  }
}
