import CDST
import Foundation

/// How to open a bundle.
public struct Options: Sendable {
  /// Threads inside one operator.
  public var threads = 1
  /// Whether they keep their cores busy while they wait.
  public var spin = false
  /// False leaves the weights in their file: less memory, slower chunks.
  public var prepack = true
  /// Steps between two checks of the state for NaN.
  public var checkStateEvery = 64
  /// False compares the sizes of the files only.
  public var hashFiles = true
  /// `fused`, `portable` or `other`; nil for the best.
  public var lowering: String?
  /// The T to run; nil for all.
  public var chunkSizes: [Int]?

  public init() {}
}

/// An open bundle. Threads may share it; its streams keep what they need of it.
///
///     let session = try Session("bundle")
///     let stream = try session.stream()
///     try await stream.advance(Data("some bytes".utf8))  // whole chunks; the rest waits
///     let logits = try await stream.flush()["logits"]!
///     try await stream.save("stream.state")
public final class Session: Sendable {
  /// What the session runs.
  public struct Info: Sendable {
    public let name, modelId, bundleId, precision: String
    /// `exact`, `pad` or `refuse`.
    public let tail: String
    public let chunkType: DType
    /// The T by which `advance` cuts.
    public let nominalT: Int
    public let lookback, lookahead: Int
    /// How many token ids there are; 0 for features.
    public let vocabulary: Int
    /// Values of one item.
    public let itemValues: Int
    public let outputNames, stateNames: [String]
    /// Bytes of one state; a stream holds four.
    public let stateBytes: Int
    /// The largest `golden_tolerance` of the graphs.
    public let tolerance: Double
  }

  public let info: Info
  // dst.h lets threads share a session, and this pointer is never changed.
  nonisolated(unsafe) private let handle: OpaquePointer

  /// Open a bundle, a folder. Its files are checked; a graph is loaded when it is first needed.
  public init(_ path: String, options: Options = Options()) throws {
    let path = try whole(path)
    var given = dst_session_options()
    dst_session_options_init(&given)
    given.threads = Int32(options.threads)
    given.spin = options.spin ? 1 : 0
    given.prepack = options.prepack ? 1 : 0
    given.check_state_every = Int32(options.checkStateEvery)
    given.hash_files = options.hashFiles ? 1 : 0
    let sizes = (options.chunkSizes ?? []).map(Int32.init)
    var opened: OpaquePointer?
    try (sizes + [0]).withUnsafeBufferPointer { sizesAndEnd in  // never empty: NULL would be all T
      if options.chunkSizes != nil {
        given.chunk_sizes = sizesAndEnd.baseAddress
        given.chunk_size_count = sizes.count
      }
      if let lowering = options.lowering {
        try whole(lowering).withCString {
          given.lowering = $0
          try check(dst_session_open(path, &given, &opened))
        }
      } else {
        try check(dst_session_open(path, &given, &opened))
      }
    }
    handle = opened!
    do {
      info = try Session.describe(handle)
    } catch {
      dst_session_close(handle)
      throw error
    }
  }

  deinit { dst_session_close(handle) }

  /// Load the graphs of all T now, so that the first steps do not wait for it.
  public func loadGraphs() throws { try check(dst_session_load_graphs(handle)) }

  /// Start a stream at the initial state. `inputs` are what the model takes once for each stream.
  public func stream(inputs: [String: Tensor] = [:]) throws -> Stream {
    let all = Array(inputs)
    var made: OpaquePointer?
    func start(_ next: Int, _ given: [dst_named_tensor]) throws {
      if next == all.count {
        return try check(dst_stream_new(handle, given, given.count, &made))
      }
      try whole(all[next].key).withCString { name in
        try all[next].value.withTensor { tensor in
          try start(next + 1, given + [dst_named_tensor(name: name, tensor: tensor.pointee)])
        }
      }
    }
    try start(0, [])
    return Stream(made!, info)
  }

  /// Go on with a stream that was saved to a file, by any language. `allowPrecision` takes the state
  /// of another precision of the same model.
  public func load(_ path: String, allowPrecision: Bool = false) throws -> Stream {
    var made: OpaquePointer?
    try check(dst_stream_load(handle, whole(path), allowPrecision ? 1 : 0, &made))
    return Stream(made!, info)
  }

  /// Go on with a stream from its bytes, which `Stream.toBytes` or a file gave.
  public func load(_ bytes: Data, allowPrecision: Bool = false) throws -> Stream {
    var made: OpaquePointer?
    try bytes.withUnsafeBytes {
      try check(dst_stream_from_bytes(handle, $0.baseAddress, $0.count, allowPrecision ? 1 : 0, &made))
    }
    return Stream(made!, info)
  }

  private static func describe(_ handle: OpaquePointer) throws -> Info {
    var told = dst_session_info()
    try check(dst_session_describe(handle, &told))
    return Info(
      name: String(cString: told.name),
      modelId: String(cString: told.model_id),
      bundleId: String(cString: told.bundle_id),
      precision: String(cString: told.precision),
      tail: String(cString: told.tail),
      chunkType: DType(rawValue: Int32(told.chunk_dtype.rawValue))!,
      nominalT: Int(told.nominal_t),
      lookback: Int(told.lookback),
      lookahead: Int(told.lookahead),
      vocabulary: Int(told.vocabulary),
      itemValues: told.item_values,
      outputNames: (0..<told.output_count).map { String(cString: dst_session_output_name(handle, $0)) },
      stateNames: (0..<told.state_count).map { String(cString: dst_session_state_name(handle, $0)) },
      stateBytes: told.state_bytes,
      tolerance: told.tolerance)
  }
}

extension Tensor {
  /// Lend the values to a function of dst.h.
  func withTensor<Result>(_ work: (UnsafePointer<dst_tensor>) throws -> Result) rethrows -> Result {
    try shape.map(Int64.init).withUnsafeBufferPointer { shape in
      try data.withUnsafeBytes { bytes in
        var tensor = dst_tensor(
          dtype: dst_dtype(rawValue: .init(dtype.rawValue)), rank: Int32(shape.count),
          shape: shape.baseAddress, data: bytes.baseAddress)
        return try work(&tensor)
      }
    }
  }

  /// Copy what dst.h lends.
  init(copying tensor: dst_tensor) {
    let dtype = DType(rawValue: Int32(tensor.dtype.rawValue))!
    let shape = (0..<Int(tensor.rank)).map { Int(tensor.shape[$0]) }
    let count = shape.reduce(dtype.bytes, *)
    self.init(
      dtype: dtype, shape: shape,
      data: count == 0 ? Data() : Data(bytes: tensor.data, count: count))
  }
}
