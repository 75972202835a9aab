// Any bytes as manifest.json: they are read or refused by an Error, and nothing else happens.
#include "bundle/manifest.h"

#include "common.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  try {
    dst::core::decode_manifest(bytes);
  } catch (const dst::core::Error&) {
  }
  try {
    const auto manifest =
        dst::core::decode_manifest(dst::fuzz::resealed(dst::core::parse_json(bytes)));
    for (const auto& constant : manifest.constants) dst::core::constant_mark(constant);
  } catch (const dst::core::Error&) {
  } catch (const std::runtime_error&) {  // no JSON
  }
  return 0;
}
