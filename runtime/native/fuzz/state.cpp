// Any bytes as a saved state: they are loaded or refused by an Error. The checksum is made right
// first in half of the tries, so that what stands behind it is reached.
#include <cstring>
#include <memory>
#include <vector>

#include "common.h"
#include "stream.h"

using namespace dst::core;

namespace {

void load(const std::shared_ptr<Engine>& engine, std::vector<uint8_t> bytes) {
  try {
    const Record record = unpack(std::move(bytes));
    Stream stream(engine, record, true, "fuzzed");
    Record again = stream.finite_record();
    std::string header;
    pack(&again, &header);
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* engines = new std::vector<std::shared_ptr<Engine>>{
      std::make_shared<Engine>(dst::fuzz::suite() + "/bundles/tokens", Options{}),
      std::make_shared<Engine>(dst::fuzz::suite() + "/bundles/given", Options{}),
      std::make_shared<Engine>(dst::fuzz::suite() + "/bundles/lookback", Options{})};
  std::vector<uint8_t> bytes(data, data + size);
  load(engines->front(), bytes);
  constexpr size_t kSumAt = 37;
  if (size < kSumAt + 32) return 0;
  std::memset(bytes.data() + kSumAt, '0', 32);
  Checksum sum;
  sum.add(bytes.data(), bytes.size());
  std::memcpy(bytes.data() + kSumAt, sum.hex().data(), 32);
  for (const auto& engine : *engines) load(engine, bytes);
  return 0;
}
