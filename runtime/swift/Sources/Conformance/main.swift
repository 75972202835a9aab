// Run the conformance suite of tests/conformance with the Swift package.
//
//   Conformance SUITE WORK           exits with 1 where anything is not as expected
//   Conformance SUITE WORK --save    and saves the states that the suite wants of each language
import DST
import Foundation

let words = CommandLine.arguments
guard words.count >= 3 else {
  print("usage: Conformance SUITE WORK [--save]")
  exit(2)
}
let root = words[1]
let work = "\(words[2])/conformance"
let save = words.contains("--save")
var ran = 0
var failed = 0

func emptied(_ folder: String) throws -> String {
  try? FileManager.default.removeItem(atPath: folder)
  try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  return folder
}

@MainActor
func attempt(_ name: String, _ action: () async throws -> Void) async {
  ran += 1
  do {
    try await action()
  } catch {
    failed += 1
    print("FAILED \(name): \((error as? Wrong)?.message ?? "\(error)")")
  }
}

@MainActor
func runScript(_ group: String, _ name: String) async throws {
  let text = String(decoding: try readFile("\(root)/scripts/\(group)/\(name).json"), as: UTF8.self)
  let each = (try readJson(Data(text.utf8)) as! Json)["each_language"] as? Bool ?? false
  let languages = each ? try FileManager.default.contentsOfDirectory(atPath: "\(root)/states").sorted() : [""]
  let arrays = try readArrays("\(root)/scripts/\(group).safetensors", prefix: "\(name)/")
  for language in languages {
    let told = text.replacingOccurrences(of: "{language}", with: language)
    let script = try readJson(Data(told.utf8)) as! Json
    let player = try Player(root: root, script: script, arrays: arrays, work: emptied(work))
    for (number, call) in (script["calls"] as! [Json]).enumerated() {
      do {
        try await player.run(call)
      } catch {
        let why = (error as? Wrong)?.message ?? "\(error)"
        throw Wrong(message: "call \(number) (\(call["call"]!)) \(language): \(why)")
      }
    }
    if save && group == "save" {
      let folder = "\(root)/states/swift"
      try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
      try await player.stream("a").save("\(work)/state")
      try readFile("\(work)/state").write(to: URL(fileURLWithPath: "\(folder)/\(name).state"))
    }
  }
}

for path in try FileManager.default.subpathsOfDirectory(atPath: "\(root)/scripts").sorted()
where path.hasSuffix(".json") {
  let parts = path.dropLast(5).split(separator: "/").map(String.init)
  await attempt("\(parts[0])/\(parts[1])") { try await runScript(parts[0], parts[1]) }
}
let files = try readArrays("\(root)/malformed/files.safetensors")
for kind in ["bundles", "states"] {
  for spec in try readJson(readFile("\(root)/malformed/\(kind).json")) as! [Json] {
    await attempt("malformed \(spec["name"]!)") {
      let code = try codeOf(root, spec, emptied(work), files, ofBundle: kind == "bundles")
      try expect(code == spec["code"] as! String, "\(code), expected \(spec["code"]!)")
    }
  }
}
try? FileManager.default.removeItem(atPath: work)
print("\(ran - failed) of \(ran) passed")
exit(failed == 0 && ran > 0 ? 0 : 1)
