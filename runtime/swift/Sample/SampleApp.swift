import DST
import SwiftUI

@main
struct SampleApp: App {
  @StateObject private var model = ReaderModel()
  @Environment(\.scenePhase) private var phase

  var body: some Scene {
    WindowGroup { Screen(model: model) }
      .onChange(of: phase) { now in
        if now != .active { Task { await model.save() } }
      }
  }
}

struct Screen: View {
  @ObservedObject var model: ReaderModel
  @State private var text = ""

  var body: some View {
    VStack(alignment: .leading) {
      Text(model.status)
      TextField("A line of text", text: $text)
      HStack {
        Button("Read it") {
          let line = text
          text = ""
          Task { await model.read(line) }
        }
        Button("Feed, or stop") { model.toggleFeed() }
      }
      List(model.lines) { Text($0.text).monospaced() }
    }
    .padding()
  }
}
