#include "bundle/manifest.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "bundle/schema.h"
#include "bundle/validation.h"

namespace dst::core {

namespace {

constexpr const char* kFormat = "dst-bundle";
constexpr int64_t kVersion = 2;

std::string text_or(const Json& json, const char* field, const char* fallback) {
  const auto held = json.find(field);
  return held == json.end() || held->is_null() ? fallback : held->get<std::string>();
}

double number_or(const Json& json, const char* field, double fallback) {
  const auto held = json.find(field);
  return held == json.end() || held->is_null() ? fallback : held->get<double>();
}

template <typename Value>
std::vector<Value> list_or_none(const Json& json, const char* field) {
  const auto held = json.find(field);
  return held == json.end() ? std::vector<Value>{} : held->get<std::vector<Value>>();
}

const Json& list_of(const Json& json, const char* field) {
  static const Json none = Json::array();
  const auto held = json.find(field);
  return held == json.end() ? none : *held;
}

dst_dtype dtype_in(const Json& json) {
  dst_dtype dtype = DST_FLOAT32;
  dtype_named(json.at("dtype").get<std::string>(), &dtype);
  return dtype;
}

Shape shape_in(const Json& json) {
  Shape shape;
  for (const Json& axis : json.at("shape")) {
    if (axis.is_string()) {
      const auto& letter = axis.get_ref<const std::string&>();
      shape.push_back({letter == "B" ? 'B' : letter == "T" ? 'T' : '?', 0});
    } else {
      shape.push_back({0, axis.get<int64_t>()});
    }
  }
  return shape;
}

Chunk chunk_in(const Json& json) {
  Chunk chunk;
  chunk.input = json.at("input").get<std::string>();
  chunk.dtype = dtype_in(json);
  chunk.shape = shape_in(json);
  chunk.nominal_t = json.at("nominal_t").get<int64_t>();
  chunk.allowed_t = json.at("allowed_t").get<std::vector<int64_t>>();
  chunk.lookback = json.value("lookback", int64_t{0});
  chunk.lookahead = json.value("lookahead", int64_t{0});
  chunk.lookback_fill = number_or(json, "lookback_fill", 0);
  chunk.pad_value = number_or(json, "pad_value", 0);
  chunk.tail_name = text_or(json, "tail", "exact");
  chunk.tail = chunk.tail_name == "pad"      ? Tail::pad
               : chunk.tail_name == "refuse" ? Tail::refuse
                                             : Tail::exact;
  const Json& content = json.at("content");
  chunk.vocabulary = content.value("vocabulary", int64_t{0});
  chunk.tokenizer = text_or(content, "tokenizer", "none");
  const auto normalisation = content.find("normalisation");
  if (normalisation != content.end() && normalisation->is_object()) {
    chunk.mean = normalisation->at("mean").get<std::vector<double>>();
    chunk.std = normalisation->at("std").get<std::vector<double>>();
  }
  return chunk;
}

State state_in(const Json& json) {
  State state{json.at("input").get<std::string>(),
              json.at("output").get<std::string>(),
              dtype_in(json),
              shape_in(json),
              0,
              std::nullopt};
  const auto init = json.find("init");
  if (init != json.end()) {
    state.fill = number_or(*init, "value", 0);
    if (init->contains("tensor")) state.stored = init->at("tensor").get<std::string>();
  }
  return state;
}

Graph graph_in(const Json& json) {
  Graph graph;
  graph.file = json.at("file").get<std::string>();
  graph.lowering = text_or(json, "lowering", "other");
  graph.min_ort = json.at("min_ort").get<std::string>();
  graph.allowed_t = json.at("allowed_t").get<std::vector<int64_t>>();
  graph.batch = list_or_none<int64_t>(json, "batch");
  graph.golden_tolerance = json.at("golden_tolerance").get<double>();
  graph.answers = text_or(json, "answers", "");
  graph.contrib = false;
  for (const Json& domain : list_of(json, "domains")) graph.contrib |= domain == "com.microsoft";
  return graph;
}

Manifest manifest_in(const Json& json) {
  Manifest manifest;
  manifest.name = json.at("name").get<std::string>();
  manifest.model_id = json.at("model_id").get<std::string>();
  manifest.bundle_id = text_or(json, "bundle_id", "");
  manifest.state_hash = text_or(json, "state_hash", "");
  manifest.upgraded_from = text_or(json, "upgraded_from", "");
  manifest.precision = text_or(json, "precision", "float32");
  const Json& contract = json.at("contract");
  manifest.chunk = chunk_in(contract.at("chunk"));
  for (const Json& one : list_of(contract, "constants")) {
    manifest.constants.push_back(
        {one.at("input").get<std::string>(), dtype_in(one), one.at("shape").get<Sizes>(), {}});
  }
  for (const Json& one : list_of(contract, "stream_inputs")) {
    manifest.stream_inputs.push_back(
        {one.at("input").get<std::string>(), dtype_in(one), shape_in(one)});
  }
  for (const Json& one : contract.at("outputs")) {
    manifest.outputs.push_back({one.at("name").get<std::string>(), dtype_in(one), shape_in(one),
                                text_or(one, "meaning", "custom")});
  }
  for (const Json& one : contract.at("state")) manifest.state.push_back(state_in(one));
  for (const Json& one : json.at("graphs")) manifest.graphs.push_back(graph_in(one));
  if (json.contains("files")) {
    for (const auto& [name, entry] : json.at("files").items()) {
      manifest.files[name] = {entry.at("sha256").get<std::string>(),
                              entry.at("size").get<uint64_t>()};
    }
  }
  return manifest;
}

// The hash of the state's layout: every field of every tensor, defaults spelled out.
std::string hash_of_state(const Json& contract) {
  Json tensors = Json::array();
  for (const Json& state : contract.at("state")) {
    Json full = state;
    const Shape shape = shape_in(state);
    full["batch_axis"] = axis_of(shape, 'B');
    if (!full.contains("init")) full["init"] = {{"kind", "zeros"}};
    if (!full.contains("role")) full["role"] = "memory";
    tensors.push_back(std::move(full));
  }
  return sha256_of(canonical(tensors));
}

std::vector<uint8_t> constant_bytes(dst_dtype dtype, const Json& values) {
  const size_t size = item_size(dtype);
  std::vector<uint8_t> bytes(values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DST_INT64) {
      const auto exact = values[i].get<int64_t>();  // a double would lose its last digits
      std::memcpy(&bytes[i * size], &exact, size);
    } else {
      store(values[i].get<double>(), dtype, &bytes[i * size]);
    }
  }
  return bytes;
}

[[noreturn]] void invalid(const std::string& why) {
  fail(DST_BUNDLE, "manifest-invalid", "manifest.json: " + shown(why));
}

}  // namespace

Manifest decode_manifest(std::string_view bytes) {
  Json json;
  bool sparse = false;
  try {
    json = parse_json(bytes);
    if (!json.is_object()) throw std::runtime_error("expected an object");
    const auto format = json.find("format"), version = json.find("format_version");
    if (format == json.end() || !format->is_string() || version == json.end() ||
        !version->is_number_integer()) {
      throw std::runtime_error("it does not tell its format and version");
    }
    if (*format != kFormat || *version != kVersion) {
      fail(DST_BUNDLE, "format-version",
           "manifest.json: format " + shown(format->dump()) + " version " + version->dump() +
               "; this runtime reads \"dst-bundle\" version 2");
    }
    sparse = check_schema(json);
  } catch (const std::runtime_error& error) {
    invalid(error.what());
  }
  if (!sparse || canonical(json) != bytes) {
    fail(DST_BUNDLE, "manifest-not-canonical",
         "manifest.json: the bytes are not the canonical encoding of what they say");
  }
  Manifest manifest = manifest_in(json);
  json.erase("bundle_id");
  if (sha256_of(canonical(json)) != manifest.bundle_id) {
    fail(DST_BUNDLE, "bundle-id",
         "manifest.json: bundle_id is not the hash of the bytes: the manifest was altered");
  }
  check_rules(manifest, json);
  if (hash_of_state(json.at("contract")) != manifest.state_hash) {
    fail(DST_BUNDLE, "state-hash",
         "manifest.json: state_hash is not the hash of the contract's state tensors");
  }
  // Not before the rules hold: a value outside of its dtype has no bytes.
  for (size_t i = 0; i < manifest.constants.size(); ++i) {
    Constant& constant = manifest.constants[i];
    constant.bytes =
        constant_bytes(constant.dtype, json.at("contract").at("constants")[i].at("values"));
  }
  return manifest;
}

namespace {

std::string value_text(const uint8_t* place, dst_dtype dtype) {
  const auto as = [place](auto typed) {
    std::memcpy(&typed, place, sizeof typed);
    return typed;
  };
  switch (dtype) {
    case DST_FLOAT16:
      return half_text(as(uint16_t{}));
    case DST_FLOAT32:
      return number_text(as(float{}));
    case DST_FLOAT64:
      return number_text(as(double{}));
    case DST_INT8:
      return std::to_string(as(int8_t{}));
    case DST_INT32:
      return std::to_string(as(int32_t{}));
    case DST_INT64:
      return std::to_string(as(int64_t{}));
    case DST_UINT8:
      return std::to_string(as(uint8_t{}));
    case DST_BOOL:
      return *place ? "True" : "False";
  }
  return "";
}

}  // namespace

std::string constant_mark(const Constant& constant) {
  constexpr size_t kShown = 8;  // a larger constant is told by its digest
  const std::vector<uint8_t>& bytes = constant.bytes;
  const size_t size = item_size(constant.dtype), count = bytes.size() / size;
  std::string text;
  if (count > kShown) {
    const std::string_view view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    text = "sha256 " + sha256_of(view).substr(0, 32);
  } else {
    for (size_t i = 0; i < count; ++i) {
      text += (i ? ", " : "") + value_text(&bytes[i * size], constant.dtype);
    }
    if (count != 1) text = "[" + text + "]";
  }
  return std::string(dtype_name(constant.dtype)) + " " + spelled(constant.shape) + " " + text;
}

std::string respelled(const std::string& mark) {
  const size_t space = mark.find(' '), end = mark.find("] ");
  dst_dtype dtype = DST_INT8;
  if (end == std::string::npos || !dtype_named(mark.substr(0, space), &dtype) || !is_float(dtype)) {
    return mark;
  }
  std::string text;
  try {
    const Json told = parse_json(mark.substr(end + 2));
    for (const Json& one : told.is_array() ? told : Json::array({told})) {
      alignas(8) uint8_t bytes[8];
      if (!one.is_number()) return mark;
      store(one.get<double>(), dtype, bytes);
      if (!all_finite(bytes, 1, dtype)) return mark;
      text += (text.empty() ? "" : ", ") + value_text(bytes, dtype);
    }
    if (told.is_array()) text = "[" + text + "]";
  } catch (const std::exception&) {
    return mark;  // the digest of many values, or no mark at all
  }
  return mark.substr(0, end + 2) + text;
}

}  // namespace dst::core
