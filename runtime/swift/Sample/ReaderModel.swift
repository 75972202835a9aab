import DST
import Foundation

/// Reads text with a bundle of bytes, tells its surprise, and keeps the stream in a file.
@MainActor
final class ReaderModel: ObservableObject {
  struct Line: Identifiable {
    let id: UInt64
    let text: String
  }

  @Published private(set) var lines: [Line] = []
  @Published private(set) var status = "opening the bundle"
  private let file = URL.documentsDirectory.appending(path: "stream.state").path()
  private var stream: DST.Stream?
  private var expected: [Float]?  // of the next byte
  private var feeding: Task<Void, Never>?
  private var turn: Task<Void, Never>?  // lines are read one after the other

  init() {
    do {
      let session = try Session(Bundle.main.path(forResource: "bundle", ofType: nil)!)
      do {
        stream = try session.load(file)
        status = "resumed"
      } catch let error as DSTError where error.status == .stateNotFound {
        stream = try session.stream()
        status = "started"
      }
    } catch {
      status = "\(error)"
    }
  }

  func read(_ line: String) async {
    let before = turn
    let now = Task {
      await before?.value
      await take(line)
    }
    turn = now
    await withTaskCancellationHandler { await now.value } onCancel: { now.cancel() }
  }

  /// Read made-up lines until it is called again: the memory shown stays as it is.
  func toggleFeed() {
    if let running = feeding {
      running.cancel()
      feeding = nil
      return
    }
    feeding = Task {
      var number = 1
      while !Task.isCancelled {
        await read("request \(number) answered in \(number * 37 % 90) ms")
        if number % 50 == 0 { await save() }  // what a kill of the app can lose
        number += 1
      }
    }
  }

  /// Keep all that the stream is, in one rename: a kill at any moment leaves this or the one before.
  func save() async {
    do {
      try await stream?.save(file)
    } catch {
      status = "\(error)"
    }
  }

  private func take(_ line: String) async {
    guard let stream else { return }
    let bytes = Data((line + "\n").utf8)
    do {
      let answers = [try await stream.advance(bytes), try await stream.flush()]
      let bits = bitsOf(Array(bytes), answers) / Double(bytes.count)
      let read = await stream.itemsConsumed
      lines.insert(Line(id: read, text: String(format: "%5.2f  ", bits) + line), at: 0)
      if lines.count > 200 { lines.removeLast() }
      status = "\(read) bytes read; the app uses \(usedKiB()) KiB"
    } catch {
      status = "\(error)"
    }
  }

  private func bitsOf(_ bytes: [UInt8], _ answers: [DST.Stream.Outputs]) -> Double {
    var bits = 0.0
    var at = 0
    for answer in answers {
      let logits = answer.values.first!  // [1, n, 256]: row i is about the byte after byte i
      let (values, ids) = (logits.floats, logits.shape.last!)
      for row in 0..<values.count / ids {
        if let expected { bits += surprise(expected, Int(bytes[at])) }
        expected = Array(values[row * ids..<(row + 1) * ids])
        at += 1
      }
    }
    return bits
  }

  private func surprise(_ logits: [Float], _ id: Int) -> Double {
    let top = logits.max()!
    let sum = logits.reduce(0.0) { $0 + exp(Double($1 - top)) }
    return (log(sum) - Double(logits[id] - top)) / log(2)
  }

  /// What the system counts against this app.
  private func usedKiB() -> UInt64 {
    var info = task_vm_info_data_t()
    var count = mach_msg_type_number_t(MemoryLayout.size(ofValue: info) / MemoryLayout<natural_t>.size)
    let result = withUnsafeMutablePointer(to: &info) {
      $0.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
        task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
      }
    }
    return result == KERN_SUCCESS ? info.phys_footprint / 1024 : 0
  }
}
