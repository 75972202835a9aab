// Any manifest and any init.safetensors beside a good graph: the bundle opens or is refused by an
// Error. The input is the length of the manifest in two bytes, the manifest, and the tensors. Sizes
// and hashes are made right first, so that what stands behind them is reached.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common.h"
#include "stream.h"

namespace fs = std::filesystem;
using namespace dst::core;

namespace {

const fs::path& folder() {
  static const fs::path* const path = [] {
    auto* made = new fs::path(fs::temp_directory_path() / ("dst-fuzz-" + std::to_string(getpid())));
    fs::remove_all(*made);
    fs::create_directories(*made);
    fs::copy(dst::fuzz::suite() + "/bundles/tokens/step.onnx", *made / "step.onnx");
    std::atexit([] { fs::remove_all(folder()); });
    return made;
  }();
  return *path;
}

void write(const char* name, const std::string& bytes) {
  std::ofstream(folder() / name, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t length = std::min<size_t>(size - 2, data[0] | data[1] << 8);
  const std::string manifest(reinterpret_cast<const char*>(data) + 2, length);
  const std::string tensors(reinterpret_cast<const char*>(data) + 2 + length, size - 2 - length);
  try {
    Json json = parse_json(manifest);
    if (json.is_object()) {
      const std::string graph = (folder() / "step.onnx").string();
      json["files"] = {
          {"init.safetensors", {{"sha256", sha256_of(tensors)}, {"size", tensors.size()}}},
          {"step.onnx", {{"sha256", sha256_of_file(graph)}, {"size", fs::file_size(graph)}}}};
    }
    write("manifest.json", dst::fuzz::resealed(json));
    write("init.safetensors", tensors);
    const auto engine = std::make_shared<Engine>(folder().string(), Options{});
    if (engine->state_bytes() < (1 << 20))
      Stream(engine, given_inputs(engine->manifest(), nullptr, 0));
  } catch (const Error&) {
  } catch (const std::runtime_error&) {  // no JSON
  } catch (const std::bad_alloc&) {
  }
  return 0;
}
