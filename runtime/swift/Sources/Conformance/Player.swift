// Do the calls of one script of the conformance suite, and compare their results.
import DST
import Foundation

final class Player {
  private let root: String
  private let arrays: [String: Tensor]
  private let work: String
  private let session: Session
  private var streams: [String: DST.Stream] = [:]
  private var snapshots: [String: Snapshot] = [:]

  init(root: String, script: Json, arrays: [String: Tensor], work: String) throws {
    (self.root, self.arrays, self.work) = (root, arrays, work)
    let told = script["open"] as? Json ?? [:]
    var options = Options()
    options.chunkSizes = told["chunk_sizes"] as? [Int]
    options.checkStateEvery = told["check_state_every"] as? Int ?? 64
    session = try Session("\(root)/bundles/\(script["bundle"] as! String)", options: options)
  }

  func stream(_ name: String) -> DST.Stream { streams[name]! }

  func run(_ call: Json) async throws {
    var outputs: [String: Tensor] = [:]
    var tokens: [Int64] = []
    do {
      try await act(call, &outputs, &tokens)
    } catch let error as DSTError {
      let expected = call["error"] as? String ?? "no error"
      return try expect(error.code == expected, "\(error), expected \(expected)")
    }
    try expect(call["error"] == nil, "no error, expected \(call["error"] ?? "")")
    if let expected = call["expect"] as? Json { try await compare(call, expected, outputs, tokens) }
  }

  private func array(_ call: Json, _ field: String) -> Tensor { arrays[call[field] as! String]! }

  private func act(_ call: Json, _ outputs: inout [String: Tensor], _ tokens: inout [Int64]) async throws {
    let kind = call["call"] as! String
    let name = call["as"] as? String ?? ""
    if kind == "stream" {
      let inputs = (call["inputs"] as? [String: String] ?? [:]).mapValues { arrays[$0]! }
      streams[name] = try session.stream(inputs: inputs)
      return
    }
    if kind == "load" {
      let path = (call["file"] as? String).map { "\(root)/\($0)" } ?? "\(work)/\(call["from"] as! String)"
      streams[name] = try session.load(path, allowPrecision: call["allow_precision"] as? Bool ?? false)
      return
    }
    let stream = stream(call["stream"] as! String)
    let last = call["last"] as? Bool ?? false
    switch kind {
    case "look": break
    case "step": outputs = try await stream.step(array(call, "chunk"), last: last)
    case "advance": outputs = try await stream.advance(array(call, "items"), last: last)
    case "flush": outputs = try await stream.flush()
    case "generate":
      var sampling = Sampling()
      sampling.temperature = (call["temperature"] as? NSNumber)?.doubleValue ?? 1
      sampling.topK = call["top_k"] as? Int ?? 0
      sampling.topP = (call["top_p"] as? NSNumber)?.doubleValue ?? 1
      sampling.seed = (call["seed"] as? String).map { UInt64($0)! }
      sampling.stop = (call["stop"] as? [Int] ?? []).map(Int64.init)
      tokens = try await stream.generate(
        array(call, "prompt"), count: call["items"] as! Int, sampling: sampling)
    case "snapshot": snapshots[name] = try await stream.snapshot()
    case "restore": try await stream.restore(snapshots[call["from"] as! String]!)
    case "fork": streams[name] = try await stream.fork()
    case "reset": try await stream.reset()
    case "save": try await stream.save("\(work)/\(name)")
    case "bytes":
      let bytes = try await stream.toBytes()
      if let same = call["same_as"] as? String {
        try expect(bytes == readFile("\(root)/\(same)"), "other bytes than \(same)")
      }
      streams[name] = try session.load(bytes)
    default: throw Wrong(message: "no such call: \(kind)")
    }
  }

  private func compare(_ call: Json, _ expected: Json, _ outputs: [String: Tensor], _ tokens: [Int64])
    async throws
  {
    let stream = stream(call["stream"] as! String)
    let exact = call["exact"] as? Bool ?? true
    for (key, right) in expected {
      let same: Bool
      switch key {
      case "outputs": same = try compareAll(key, outputs, right as! [String: String], exact)
      case "state": same = try compareAll(key, await stream.state, right as! [String: String], exact)
      case "tokens": same = (right as! [Int]).map(Int64.init) == tokens
      case "items_consumed": same = (right as! NSNumber).uint64Value == (await stream.itemsConsumed)
      case "pending": same = right as! Int == (await stream.pending)
      case "sampler":
        let found = await stream.sampler
        let told = right as? [String: String]
        same = found.map { "\($0.seed) \($0.draws)" } == told.map { "\($0["seed"]!) \($0["draws"]!)" }
      default: throw Wrong(message: "no such expectation: \(key)")
      }
      try expect(same, "\(key) is not \(right)")
    }
  }

  private func compareAll(_ what: String, _ found: [String: Tensor], _ names: [String: String], _ exact: Bool)
    throws -> Bool
  {
    try expect(Set(found.keys) == Set(names.keys), "\(what) has \(found.keys), expected \(names.keys)")
    for (name, ref) in names {
      let (value, right) = (found[name]!, arrays[ref]!)
      let kinds = "\(value.dtype) \(value.shape), expected \(right.dtype) \(right.shape)"
      try expect(value.dtype == right.dtype && value.shape == right.shape, "\(what) \(name) is \(kinds)")
      if value == right { continue }
      let float = [.float16, .float32, .float64].contains(value.dtype)
      try expect(!exact && float, "\(what) \(name) has other bits than expected")
      let error = relativeError(value, right)
      try expect(error <= session.info.tolerance, "\(what) \(name) has an error of \(error)")
    }
    return true
  }
}
