// What the fuzzers share: a manifest whose hashes are made right again, so that mutated fields
// reach the rules behind the hashes.
#pragma once

#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"

namespace dst::fuzz {

// The canonical bytes with a right bundle_id and, where it can be said, a right state_hash.
inline std::string resealed(core::Json json) {
  if (!json.is_object()) return core::canonical(json);
  try {
    core::Json tensors = core::Json::array();
    for (const core::Json& state : json.at("contract").at("state")) {
      core::Json full = state;
      int axis = 0;
      for (const core::Json& size : state.at("shape")) {
        if (size == "B") break;
        ++axis;
      }
      full["batch_axis"] = axis;
      if (!full.contains("init")) full["init"] = {{"kind", "zeros"}};
      if (!full.contains("role")) full["role"] = "memory";
      tensors.push_back(full);
    }
    json["state_hash"] = core::sha256_of(core::canonical(tensors));
  } catch (const core::Json::exception&) {  // no such fields: the schema will say so
  }
  json.erase("bundle_id");
  json["bundle_id"] = core::sha256_of(core::canonical(json));
  return core::canonical(json);
}

// The folder of the conformance suite.
inline std::string suite() {
  const char* path = std::getenv("DST_SUITE");
  if (path == nullptr) std::abort();
  return path;
}

}  // namespace dst::fuzz
