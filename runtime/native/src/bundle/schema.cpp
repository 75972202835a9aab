#include "bundle/schema.h"

#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace dst::core {

namespace {

// What a check learns on its way. `sparse` turns false where a default is told.
struct Walk {
  bool sparse = true;
};

using Check = std::function<void(Walk&, const std::string& path, const Json&)>;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw std::runtime_error((path.empty() ? "manifest" : path) + ": " + what);
}

Check text(size_t least = 0, size_t most = SIZE_MAX) {
  return [=](Walk&, const std::string& path, const Json& value) {
    if (!value.is_string()) refuse(path, "expected a text");
    const size_t count = characters(value.get_ref<const std::string&>());
    if (count < least || count > most)
      refuse(path, "a text of " + std::to_string(count) + " characters");
  };
}

Check matching(bool (*good)(const std::string&)) {
  return [=](Walk&, const std::string& path, const Json& value) {
    if (!value.is_string() || !good(value.get_ref<const std::string&>())) {
      refuse(path, "not of the form that FORMAT.md says");
    }
  };
}

bool is_hash(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool is_version(const std::string& text) {
  int parts = 1, digits = 0;
  for (const char c : text) {
    if (c == '.') {
      if (digits == 0 || ++parts > 3) return false;
      digits = 0;
    } else if (c < '0' || c > '9' || ++digits > 6) {
      return false;
    }
  }
  return parts >= 2 && digits > 0;
}

Check whole(int64_t least, int64_t most) {
  return [=](Walk&, const std::string& path, const Json& value) {
    if (!value.is_number_integer()) refuse(path, "expected an integer");
    const bool huge = value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
    if (huge || value.get<int64_t>() < least || value.get<int64_t>() > most) {
      refuse(path, "an integer out of its range");
    }
  };
}

void number(Walk& walk, const std::string& path, const Json& value) {
  if (!value.is_number()) refuse(path, "expected a number");
  if (!value.is_number_float()) walk.sparse = false;
  if (!std::isfinite(value.get<double>())) refuse(path, "expected a finite number");
}

void flag(Walk&, const std::string& path, const Json& value) {
  if (!value.is_boolean()) refuse(path, "expected true or false");
}

Check one_of(std::vector<std::string> words) {
  return [=](Walk&, const std::string& path, const Json& value) {
    for (const std::string& word : words) {
      if (value == word) return;
    }
    refuse(path, "none of the words that FORMAT.md lists");
  };
}

Check or_null(Check check) {
  return [=](Walk& walk, const std::string& path, const Json& value) {
    if (!value.is_null()) check(walk, path, value);
  };
}

Check list(Check check, size_t most = SIZE_MAX) {
  return [=](Walk& walk, const std::string& path, const Json& value) {
    if (!value.is_array()) refuse(path, "expected a list");
    if (value.size() > most) refuse(path, "a list of too many values");
    for (size_t i = 0; i < value.size(); ++i) check(walk, path + "." + std::to_string(i), value[i]);
  };
}

Check map(Check key, Check check) {
  return [=](Walk& walk, const std::string& path, const Json& value) {
    if (!value.is_object()) refuse(path, "expected an object");
    for (const auto& [name, held] : value.items()) {
      key(walk, path, name);
      check(walk, path + "." + name, held);
    }
  };
}

struct Field {
  const char* name;
  Check check;
  Json fallback = Json::value_t::discarded;  // what it is where it is left out, if it may be
};

Check object(std::vector<Field> fields) {
  return [fields](Walk& walk, const std::string& path, const Json& value) {
    if (!value.is_object()) refuse(path, "expected an object");
    size_t known = 0;
    for (const Field& field : fields) {
      const std::string where = path.empty() ? field.name : path + "." + field.name;
      const auto held = value.find(field.name);
      if (held == value.end()) {
        if (field.fallback.is_discarded()) refuse(where, "is missing");
        continue;
      }
      ++known;
      field.check(walk, where, *held);
      if (!field.fallback.is_discarded() && *held == field.fallback) walk.sparse = false;
    }
    if (known == value.size()) return;
    for (const auto& [name, held] : value.items()) {
      bool found = false;
      for (const Field& field : fields) found |= name == field.name;
      if (!found) refuse(path.empty() ? name : path + "." + name, "no such field");
    }
  };
}

// An object whose `kind` says which fields it has.
Check tagged(std::vector<std::pair<const char*, std::vector<Field>>> kinds) {
  std::vector<std::pair<std::string, Check>> checks;
  for (auto& [name, fields] : kinds) {
    fields.push_back({"kind", text()});
    checks.emplace_back(name, object(fields));
  }
  return [checks](Walk& walk, const std::string& path, const Json& value) {
    if (!value.is_object() || !value.contains("kind"))
      refuse(path, "expected an object with a kind");
    for (const auto& [name, check] : checks) {
      if (value["kind"] == name) return check(walk, path, value);
    }
    refuse(path + ".kind", "no such kind");
  };
}

// An axis of a shape; which letters may stand there is a rule of the contract.
void axis(Walk& walk, const std::string& path, const Json& value) {
  if (value.is_string()) return;
  whole(INT64_MIN, INT32_MAX)(walk, path, value);
}

void constant_value(Walk& walk, const std::string& path, const Json& value) {
  if (value.is_number_float()) return number(walk, path, value);
  whole(INT64_MIN, INT64_MAX)(walk, path, value);
}

Check manifest_check() {
  const Check name = matching(is_name), any = text(), hash = matching(is_hash);
  const Check count = whole(0, INT64_MAX), positive = whole(1, INT32_MAX);
  const Check shape = list(axis, 16), numbers = list(number);
  const Check dtype =
      one_of({"float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"});
  const Json empty = Json::array(), nothing = Json::object();

  const Check normalisation = object({{"mean", numbers}, {"std", numbers}});
  const Check content = tagged(
      {{"tokens",
        {{"vocabulary", positive}, {"tokenizer", one_of({"bytes", "tokenizers", "none"}), "none"}}},
       {"features",
        {{"names", list(name), empty},
         {"sample_rate_hz", or_null(number), nullptr},
         {"normalisation", or_null(normalisation), nullptr}}}});
  const Check chunk = object({{"input", name},
                              {"dtype", dtype},
                              {"shape", shape},
                              {"nominal_t", positive},
                              {"allowed_t", list(positive)},
                              {"content", content},
                              {"lookback", count, 0},
                              {"lookback_fill", or_null(number), nullptr},
                              {"lookahead", count, 0},
                              {"tail", one_of({"exact", "pad", "refuse"}), "exact"},
                              {"pad_value", or_null(number), nullptr},
                              {"causal", flag, true}});
  const Check constant = object({{"input", name},
                                 {"dtype", dtype},
                                 {"shape", list(count, 16)},
                                 {"values", list(constant_value)}});
  const Check stream_input = object({{"input", name}, {"dtype", dtype}, {"shape", shape}});
  const Check output =
      object({{"name", name},
              {"dtype", dtype},
              {"shape", shape},
              {"meaning", one_of({"logits", "gaussian", "quantiles", "custom"}), "custom"},
              {"levels", numbers, empty}});
  const Check init =
      tagged({{"zeros", {}}, {"fill", {{"value", number}}}, {"stored", {{"tensor", name}}}});
  const Check state = object({{"input", name},
                              {"output", name},
                              {"dtype", dtype},
                              {"shape", shape},
                              {"init", init, {{"kind", "zeros"}}},
                              {"role", one_of({"memory", "window", "conv", "counter"}), "memory"}});
  const Check contract = object({{"chunk", chunk},
                                 {"constants", list(constant), empty},
                                 {"stream_inputs", list(stream_input), empty},
                                 {"outputs", list(output)},
                                 {"state", list(state)}});
  const Check graph = object({{"file", name},
                              {"lowering", one_of({"fused", "portable", "other"}), "other"},
                              {"allowed_t", list(positive)},
                              {"batch", list(positive), empty},
                              {"opsets", map(name, positive)},
                              {"domains", list(name), Json::array({"ai.onnx"})},
                              {"min_ort", matching(is_version)},
                              {"golden_tolerance", number},
                              {"multiply_adds", map(text(1, 500), count), nothing},
                              {"answers", or_null(name), nullptr}});
  const Check golden = object({{"file", name}, {"t", positive}, {"steps", positive}});
  const Check curve = object({{"steps", list(count)}, {"tensors", map(name, numbers)}});
  const Check certificate = object({{"name", name},
                                    {"steps", positive},
                                    {"items_per_step", positive},
                                    {"data", any},
                                    {"bound", number},
                                    {"decile_ratio_bound", number},
                                    {"passed", flag},
                                    {"curve", curve},
                                    {"worst", number},
                                    {"worst_state", number},
                                    {"worst_state_of_peak", number},
                                    {"decile_ratio", number}});
  const Check gate = object({{"name", name},
                             {"value", or_null(number), nullptr},
                             {"bound", number},
                             {"verdict", one_of({"passed", "failed", "not judged"})}});
  const Check quality = object({{"full", hash},
                                {"items", positive},
                                {"items_per_step", positive},
                                {"data", any},
                                {"unit", one_of({"nats", "relative"})},
                                {"positions", list(count)},
                                {"divergence", numbers},
                                {"loss_difference", or_null(numbers), nullptr},
                                {"state_distance", list(or_null(number))},
                                {"causal", flag},
                                {"gates", list(gate)},
                                {"passed", or_null(flag), nullptr}});
  return object({{"format", any},
                 {"format_version", whole(INT64_MIN, INT64_MAX)},
                 // Absent or wrong, the two computed ids are found out by their own codes.
                 {"bundle_id", any, ""},
                 {"state_hash", any, ""},
                 {"model_id", hash},
                 {"upgraded_from", or_null(hash), nullptr},
                 {"name", name},
                 {"description", any, ""},
                 {"license", any, ""},
                 {"precision", name, "float32"},
                 {"recipe", or_null(any), nullptr},
                 {"producer", object({{"name", name}, {"version", any}})},
                 {"contract", contract},
                 {"graphs", list(graph)},
                 {"golden", list(golden), empty},
                 {"certificates", list(certificate), empty},
                 {"horizon", object({{"half_life_items", or_null(number), nullptr}}), nothing},
                 {"weights_bytes", count},
                 {"quality", or_null(quality), nullptr},
                 {"files", map(name, object({{"sha256", hash}, {"size", count}})), nothing}});
}

}  // namespace

bool check_schema(const Json& manifest) {
  static const Check check = manifest_check();
  Walk walk;
  check(walk, "", manifest);
  return walk.sparse;
}

}  // namespace dst::core
