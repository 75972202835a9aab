// The tables of FORMAT.md, section 3 to 5: which fields a manifest has, their types and defaults.
#pragma once

#include "base/json.h"

namespace dst::core {

// Throws std::runtime_error with a line where a field is missing, unknown or of another type.
// Returns false where a field tells its default, or a number is spelled as an integer: such a
// manifest is valid and not canonical.
bool check_schema(const Json& manifest);

}  // namespace dst::core
