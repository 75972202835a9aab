import CDST
import Foundation

/// Tokens for which `Stream.generate` makes room at first.
private let firstBlock = 256

/// How `Stream.generate` chooses tokens.
public struct Sampling: Sendable {
  /// 0 takes the most likely token.
  public var temperature = 1.0
  /// Choose among so many tokens; 0 for all.
  public var topK = 0
  /// Choose among the likeliest tokens that have this probability together; 1 for all.
  public var topP = 1.0
  /// Nil goes on with the random source of the stream, or makes one.
  public var seed: UInt64?
  /// Tokens that end the text.
  public var stop: [Int64] = []

  public init() {}
}

/// The random source of a stream: where it began, and how often it was asked.
public struct Sampler: Sendable, Equatable {
  public let seed, draws: UInt64
}

/// What a stream was at one moment.
public final class Snapshot: Sendable {
  // It is never changed, and freed with its only owner.
  nonisolated(unsafe) fileprivate let handle: OpaquePointer
  fileprivate init(_ handle: OpaquePointer) { self.handle = handle }
  deinit { dst_snapshot_free(handle) }
}

/// One live recurrence. A call that fails throws a `DSTError` and leaves the stream as it was.
///
/// The stream is an actor, so its calls wait for each other. A call that runs is ended by the
/// cancellation of its task. Where Foundation is imported too, write `DST.Stream`.
public actor Stream {
  public typealias Outputs = [String: Tensor]

  private let info: Session.Info
  // Only calls of this actor use it, and dst_stream_cancel, which any thread may call.
  private struct Shared: @unchecked Sendable {
    let handle: OpaquePointer
  }
  private let shared: Shared
  private nonisolated var handle: OpaquePointer { shared.handle }

  init(_ handle: OpaquePointer, _ info: Session.Info) {
    (self.shared, self.info) = (Shared(handle: handle), info)
  }

  deinit { dst_stream_free(handle) }

  /// Step on one chunk, in the contract's shape with B = 1. With `last` answer for the last item only.
  @discardableResult
  public func step(_ chunk: Tensor, last: Bool = false, deadlineMs: Double = 0) async throws -> Outputs {
    try await answered {
      chunk.withTensor { dst_stream_step(self.handle, $0, last ? 1 : 0, deadlineMs) }
    }
  }

  /// Read items `[n, ...]`: time first, no batch axis. Whole chunks are stepped, the rest waits.
  /// A call that takes longer than `deadlineMs` milliseconds fails; 0 is no deadline.
  @discardableResult
  public func advance(_ items: Tensor, last: Bool = false, deadlineMs: Double = 0) async throws -> Outputs {
    try await answered {
      items.withTensor { dst_stream_advance(self.handle, $0, last ? 1 : 0, deadlineMs) }
    }
  }

  /// The same for a model whose tokens are bytes.
  @discardableResult
  public func advance(_ bytes: Data, last: Bool = false, deadlineMs: Double = 0) async throws -> Outputs {
    try await answered {
      bytes.withUnsafeBytes {
        dst_stream_advance_bytes(self.handle, $0.baseAddress, $0.count, last ? 1 : 0, deadlineMs)
      }
    }
  }

  /// End the input by the tail rule of the contract.
  @discardableResult
  public func flush(deadlineMs: Double = 0) async throws -> Outputs {
    try await answered { dst_stream_flush(self.handle, deadlineMs) }
  }

  /// Read pieces of bytes as they come, and answer for each. A piece is asked for when its answer is.
  ///
  ///     for try await outputs in stream.answers(to: pieces) { … }
  public nonisolated func answers<Pieces: AsyncSequence>(to pieces: Pieces) -> Answers<Pieces>
  where Pieces.Element == Data {
    Answers(pieces: pieces, stream: self)
  }

  /// End the call that runs now, from anywhere; it throws `.cancelled`.
  public nonisolated func cancel() { dst_stream_cancel(handle) }

  /// Read a prompt and sample up to `count` tokens.
  ///
  /// A `count` that is never reached costs no memory: room is made for the tokens that there are.
  public func generate(_ prompt: Tensor, count: Int, sampling: Sampling = Sampling()) async throws -> [Int64] {
    try await cancellable {
      var (items, seed, tokens) = (prompt, sampling.seed, [Int64]())
      // The stream keeps its random source and the token that waits: the next block goes on from there.
      repeat {
        if !tokens.isEmpty { try Task.checkCancellation() }  // one that came between two blocks
        let block = min(count - tokens.count, max(firstBlock, tokens.count))
        let (made, status) = sample(items, block, sampling, seed)
        tokens += made
        guard status == DST_OK else {
          var error = DSTError(status)
          error.tokens = tokens
          throw error
        }
        (items, seed) = (Tensor(dtype: prompt.dtype, shape: [0], data: Data()), nil)
      } while (1..<max(count, 1)).contains(tokens.count) && !sampling.stop.contains(tokens[tokens.count - 1])
      return tokens
    }
  }

  private func sample(_ items: Tensor, _ count: Int, _ sampling: Sampling, _ seed: UInt64?) -> ([Int64], dst_status) {
    var tokens = [Int64](repeating: 0, count: max(count, 1))
    var made = 0
    var start = seed ?? 0
    let status = sampling.stop.withUnsafeBufferPointer { stop in
      withUnsafePointer(to: &start) { start in
        var asked = dst_sampling(
          temperature: sampling.temperature, top_k: Int64(sampling.topK), top_p: sampling.topP,
          seed: seed == nil ? nil : start, stop: stop.baseAddress, stop_count: stop.count)
        return items.withTensor {
          dst_stream_generate(self.handle, $0, count, &asked, &tokens, &made)
        }
      }
    }
    return (Array(tokens.prefix(made)), status)
  }

  /// Copies of the state tensors, by name.
  public var state: [String: Tensor] {
    get throws {
      try named(info.stateNames) { dst_stream_state(handle, $0, &$1) }
    }
  }

  /// How many items the stream has read, without those that wait.
  public var itemsConsumed: UInt64 { dst_stream_items_consumed(handle) }

  /// How many items wait for their chunk to be full.
  public var pending: Int { dst_stream_pending(handle) }

  /// The random source; nil where nothing was sampled.
  public var sampler: Sampler? {
    var seed: UInt64 = 0
    var draws: UInt64 = 0
    return dst_stream_sampler(handle, &seed, &draws) == 0 ? nil : Sampler(seed: seed, draws: draws)
  }

  /// Go back to the initial state.
  public func reset() throws { try check(dst_stream_reset(handle)) }

  /// Make a second stream that goes on from here on its own.
  public func fork() throws -> Stream {
    var other: OpaquePointer?
    try check(dst_stream_fork(handle, &other))
    return Stream(other!, info)
  }

  /// Remember what the stream is now.
  public func snapshot() throws -> Snapshot {
    var made: OpaquePointer?
    try check(dst_stream_snapshot(handle, &made))
    return Snapshot(made!)
  }

  /// Go back to a snapshot.
  public func restore(_ snapshot: Snapshot) throws { try check(dst_stream_restore(handle, snapshot.handle)) }

  /// Write everything the stream is to a file, in one rename. What stood there is kept beside it as
  /// `<name>.previous`. With `durable` false the call does not wait for the disk.
  public func save(_ path: String, durable: Bool = true) throws {
    try check(dst_stream_save(handle, whole(path), durable ? 0 : 1))
  }

  /// The bytes of the file that `save` writes.
  public func toBytes() throws -> Data {
    var size = 0
    try check(dst_stream_to_bytes(handle, nil, &size))
    var bytes = Data(count: size)
    try bytes.withUnsafeMutableBytes { try check(dst_stream_to_bytes(handle, $0.baseAddress, &size)) }
    return bytes
  }

  private func answered(_ work: () -> dst_status) async throws -> Outputs {
    try await cancellable {
      try check(work())
      return try named(info.outputNames) { dst_stream_output(handle, $0, &$1) }
    }
  }

  private func cancellable<Result: Sendable>(_ work: () throws -> Result) async throws -> Result {
    try Task.checkCancellation()
    return try await withTaskCancellationHandler {
      try work()
    } onCancel: {
      dst_stream_cancel(handle)
    }
  }

  private func named(_ names: [String], _ ask: (Int, inout dst_tensor) -> dst_status) throws -> [String: Tensor] {
    var found: [String: Tensor] = [:]
    for (index, name) in names.enumerated() {
      var tensor = dst_tensor()
      try check(ask(index, &tensor))
      found[name] = Tensor(copying: tensor)
    }
    return found
  }
}

/// The answers of a stream to pieces of bytes; made by `Stream.answers(to:)`.
public struct Answers<Pieces: AsyncSequence>: AsyncSequence where Pieces.Element == Data {
  fileprivate let pieces: Pieces
  fileprivate let stream: Stream

  public struct AsyncIterator: AsyncIteratorProtocol {
    fileprivate var pieces: Pieces.AsyncIterator
    fileprivate let stream: Stream

    public mutating func next() async throws -> Stream.Outputs? {
      guard let piece = try await pieces.next() else { return nil }
      return try await stream.advance(piece)
    }
  }

  public func makeAsyncIterator() -> AsyncIterator {
    AsyncIterator(pieces: pieces.makeAsyncIterator(), stream: stream)
  }
}
