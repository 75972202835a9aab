// The rules of FORMAT.md that span several fields.
#pragma once

#include "base/json.h"
#include "bundle/manifest.h"

namespace dst::core {

// Throws Error with `contract`, `path-outside` or `file-too-large`. `json` is the same manifest.
void check_rules(const Manifest& manifest, const Json& json);

}  // namespace dst::core
