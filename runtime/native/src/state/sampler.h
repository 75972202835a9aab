// Choose a token from logits, with random numbers that a saved state can go on with.
#pragma once

#include <vector>

#include "execution/recurrence.h"

namespace dst::core {

// A seed from the operating system.
Sampler fresh_sampler();
// Draw k of a seed is always the same number, in [0, 1); the sampler then stands behind it.
double draw(Sampler* sampler);

struct Choice {
  double temperature;
  int64_t top_k;
  double top_p;

  // Throws Error (`generate`) where a value is outside its range.
  void check() const;
  int64_t pick(const std::vector<double>& logits, Sampler* sampler) const;
};

}  // namespace dst::core
