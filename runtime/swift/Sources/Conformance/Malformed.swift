// Make malformed bundles and saved states, and say by which code they are refused.
import DST
import Foundation

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// The code of the error that a case gives; `no error` where there is none.
func codeOf(_ root: String, _ spec: Json, _ work: String, _ files: [String: Tensor], ofBundle: Bool) throws
  -> String
{
  let good = "\(root)/bundles/\(spec["bundle"] as! String)"
  let edits = spec["edits"] as! [Json]
  do {
    if ofBundle {
      try FileManager.default.copyItem(atPath: good, toPath: "\(work)/bundle")
      try edit("\(work)/bundle", edits, files)
      let session = try Session("\(work)/bundle")
      if spec["after"] as? String == "step" { try session.loadGraphs() }
    } else {
      if let state = spec["state"] as? String {
        try FileManager.default.copyItem(
          atPath: "\(root)/states/python/\(state).state", toPath: "\(work)/state")
      }
      try edit(work, edits, files)
      _ = try Session(good).load("\(work)/state")
    }
  } catch let error as DSTError {
    return error.code
  }
  return "no error"
}

private func edit(_ place: String, _ edits: [Json], _ files: [String: Tensor]) throws {
  let manager = FileManager.default
  for what in edits {
    let path = "\(place)/\(what["file"] as! String)"
    var bytes = manager.contents(atPath: path) ?? Data()
    switch what["edit"] as! String {
    case "put": bytes = files[what["from"] as! String]!.data
    case "append":
      var hex = Substring(what["hex"] as! String)
      while !hex.isEmpty {
        bytes.append(UInt8(hex.prefix(2), radix: 16)!)
        hex = hex.dropFirst(2)
      }
    case "truncate": bytes = bytes.prefix(what["size"] as! Int)
    case "flip": bytes[what["at"] as! Int] ^= 1 << UInt8(what["bit"] as! Int)
    case "remove":
      try manager.removeItem(atPath: path)
      continue
    case "link":
      try manager.createSymbolicLink(atPath: path, withDestinationPath: what["to"] as! String)
      continue
    case "folder":
      try manager.createDirectory(atPath: path, withIntermediateDirectories: false)
      continue
    case "pipe":
      try expect(mkfifo(path, 0o600) == 0, "cannot make \(path)")
      continue
    default: throw Wrong(message: "no such edit: \(what)")
    }
    try bytes.write(to: URL(fileURLWithPath: path))
  }
}
