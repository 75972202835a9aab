import CDST

/// One value for each way to react to an error, with the numbers of `dst_status`.
public enum Status: UInt32, Sendable {
  case argument = 1
  case bundle, session, step, notFinite, partialChunk, deadline, cancelled
  case state, stateNotFound, stateCorrupt, stateMismatch, memory, `internal`
}

/// A call was refused or failed. The stream is then as it was before the call.
public struct DSTError: Error, Sendable, CustomStringConvertible {
  /// How to react.
  public let status: Status
  /// The code of FORMAT.md, such as `file-hash`; it never changes.
  public let code: String
  /// What was wrong, in one line.
  public let message: String
  /// What `generate` had made before it failed; the stream stands behind them.
  public var tokens: [Int64] = []

  public var description: String { "\(code): \(message)" }

  init(_ failed: dst_status) {
    status = Status(rawValue: UInt32(failed.rawValue)) ?? .internal
    code = String(cString: dst_last_code())
    message = String(cString: dst_last_message())
  }

  init(argument message: String) { (status, code, self.message) = (.argument, "argument", message) }
}

/// A text as C takes it: C would end it at a NUL, and a path would be another file's.
func whole(_ text: String) throws -> String {
  if text.utf8.contains(0) { throw DSTError(argument: "a text holds NUL, expected one without") }
  return text
}

/// Throw where a function of dst.h failed. The message belongs to the thread, so ask at once.
func check(_ status: dst_status) throws {
  if status != DST_OK { throw DSTError(status) }
}
