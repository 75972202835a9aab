// swift-tools-version:6.0
// The Swift package over the native runtime. CMake builds that first; its place and that of ONNX
// Runtime are told to the linker: `swift build -Xlinker -LFOLDER …`; see docs/swift.md.
import PackageDescription

let package = Package(
  name: "DST",
  platforms: [.iOS(.v15), .macOS(.v12)],
  products: [.library(name: "DST", targets: ["DST"])],
  targets: [
    .systemLibrary(name: "CDST"),
    .target(name: "DST", dependencies: ["CDST"]),
    .executableTarget(name: "Conformance", dependencies: ["DST"]),
  ]
)
