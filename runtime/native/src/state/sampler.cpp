#include "state/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/error.h"

namespace dst::core {

namespace {

// Philox 4x64-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011): the first of
// its four outputs for the key [seed, 0] and the counter [count, 0, 0, 0].
uint64_t philox(uint64_t seed, uint64_t count) {
  constexpr uint64_t kMultiply[2] = {0xD2E7470EE14C6C93u, 0xCA5A826395121157u};
  constexpr uint64_t kAdd[2] = {0x9E3779B97F4A7C15u, 0xBB67AE8584CAA73Bu};
  uint64_t x[4] = {count, 0, 0, 0}, key[2] = {seed, 0};
  for (int round = 0; round < 10; ++round) {
    const auto first = static_cast<unsigned __int128>(kMultiply[0]) * x[0];
    const auto second = static_cast<unsigned __int128>(kMultiply[1]) * x[2];
    const uint64_t next[4] = {
        static_cast<uint64_t>(second >> 64) ^ x[1] ^ key[0], static_cast<uint64_t>(second),
        static_cast<uint64_t>(first >> 64) ^ x[3] ^ key[1], static_cast<uint64_t>(first)};
    std::copy(next, next + 4, x);
    key[0] += kAdd[0];
    key[1] += kAdd[1];
  }
  return x[0];
}

}  // namespace

Sampler fresh_sampler() {
  std::random_device device;
  const uint64_t high = device();
  return {high << 32 | device(), 0};
}

double draw(Sampler* sampler) {
  const uint64_t bits = philox(sampler->seed, ++sampler->draws);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

void Choice::check() const {
  if (!(temperature >= 0) || !std::isfinite(temperature)) {
    fail(DST_STEP, "generate", "temperature: expected 0 or more");
  }
  if (top_k < 0) fail(DST_STEP, "generate", "top_k: expected 0 (all) or more");
  if (!(top_p > 0) || top_p > 1) {
    fail(DST_STEP, "generate", "top_p: expected more than 0, at most 1");
  }
}

int64_t Choice::pick(const std::vector<double>& logits, Sampler* sampler) const {
  if (temperature == 0) return std::max_element(logits.begin(), logits.end()) - logits.begin();
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&logits](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (top_k && static_cast<uint64_t>(top_k) < order.size())
    order.resize(static_cast<size_t>(top_k));
  std::vector<double> reach;
  double sum = 0;
  for (const size_t token : order) {
    sum += std::exp((logits[token] - logits[order[0]]) / temperature);
    reach.push_back(sum);
  }
  if (top_p < 1) {
    const auto end = std::lower_bound(reach.begin(), reach.end(), top_p * reach.back());
    reach.resize(std::min<size_t>(static_cast<size_t>(end - reach.begin()) + 1, reach.size()));
  }
  const double number = draw(sampler);
  const auto place = static_cast<size_t>(
      std::upper_bound(reach.begin(), reach.end(), number * reach.back()) - reach.begin());
  return static_cast<int64_t>(order[std::min(place, reach.size() - 1)]);
}

}  // namespace dst::core
