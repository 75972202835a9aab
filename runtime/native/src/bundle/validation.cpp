#include "bundle/validation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"

namespace dst::core {

namespace {

[[noreturn]] void refuse(const std::string& what) {
  fail(DST_BUNDLE, "contract", "manifest: " + shown(what));
}

[[noreturn]] void too_large(const std::string& what) {
  fail(DST_BUNDLE, "file-too-large", "manifest: " + shown(what));
}

void unique(const char* what, const std::vector<std::string>& names) {
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (!seen.insert(name).second) refuse(std::string(what) + " " + name + " is named twice");
  }
}

bool contains(const std::vector<int64_t>& values, int64_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

bool rising(const std::vector<int64_t>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::greater_equal<>()) == values.end();
}

// Each letter stands once where it must, at most once where it may, and all else is a size.
void letters(const std::string& where, const Shape& shape, const std::string& must,
             const std::string& may) {
  const auto count = [&shape](char letter) {
    return std::count_if(shape.begin(), shape.end(),
                         [letter](const Axis& axis) { return axis.letter == letter; });
  };
  for (const char letter : must) {
    if (count(letter) != 1) refuse(where + ": the shape needs one \"" + letter + "\"");
  }
  for (const Axis& axis : shape) {
    if (axis.letter == 0) {
      if (axis.size < 1) refuse(where + ": an axis is below 1");
    } else if ((must + may).find(axis.letter) == std::string::npos || count(axis.letter) > 1) {
      refuse(where + ": the shape has a letter that may not stand there");
    }
  }
}

void fits(const std::string& where, dst_dtype dtype, double value) {
  double least = 0, most = 0;
  dtype_range(dtype, &least, &most);
  if (!std::isfinite(value) || value < least || value > most ||
      (dtype == DST_INT64 && value >= most)) {
    refuse(where + " is out of the range of " + dtype_name(dtype));
  }
}

bool is_whole(double value) { return std::isfinite(value) && std::floor(value) == value; }

void check_content(const Chunk& chunk, const Json& json, const std::vector<double>& fills) {
  const Json& content = json.at("content");
  if (chunk.vocabulary) {
    if (chunk.dtype != DST_INT64 && chunk.dtype != DST_INT32 && chunk.dtype != DST_UINT8) {
      refuse("tokens are int64, int32 or uint8");
    }
    if (chunk.shape.size() != 2) refuse("tokens have a batch and a time axis only");
    if (chunk.tokenizer == "bytes" && chunk.vocabulary < 256) {
      refuse("the tokenizer `bytes` needs a vocabulary of 256");
    }
    if (chunk.dtype == DST_UINT8 && chunk.vocabulary > 256) refuse("the vocabulary exceeds uint8");
    for (const double fill : fills) {
      if (!is_whole(fill) || fill < 0 || fill >= static_cast<double>(chunk.vocabulary)) {
        refuse("the pad or lookback fill is no token");
      }
    }
    return;
  }
  if (!is_float(chunk.dtype)) refuse("features are float16, float32 or float64");
  const Sizes axes = fixed_axes(chunk.shape);
  const uint64_t count = product(axes);
  const auto names = content.value("names", std::vector<std::string>{});
  if (!names.empty() && axes.size() > 1) refuse("names label one axis besides B and T");
  if (!names.empty() && names.size() != count) refuse("there are not as many names as features");
  unique("feature", names);
  if (content.contains("sample_rate_hz") && content["sample_rate_hz"].get<double>() <= 0) {
    refuse("sample_rate_hz is not positive");
  }
  if (content.contains("normalisation")) {
    for (const auto* values : {&chunk.mean, &chunk.std}) {
      if (values->size() != count) refuse("normalisation has another number of values");
      for (const double value : *values) fits("normalisation", chunk.dtype, value);
    }
    for (const double value : chunk.std) {
      // A tiny one is 0 in that dtype.
      const bool wide = normalised_in(chunk.dtype) == DST_FLOAT64;
      if (!(wide ? value > 0 : static_cast<float>(value) > 0)) {
        refuse("normalisation.std is not above 0");
      }
    }
  }
  for (const double fill : fills) fits("the pad or lookback fill", chunk.dtype, fill);
}

void check_chunk(const Chunk& chunk, const Json& json) {
  letters("chunk", chunk.shape, "BT", "");
  const std::vector<int64_t>& allowed = chunk.allowed_t;
  if (allowed.empty()) refuse("chunk.allowed_t is empty");
  if (!rising(allowed)) refuse("chunk.allowed_t does not rise");
  if (!contains(allowed, chunk.nominal_t)) refuse("chunk.nominal_t is not in allowed_t");
  if (chunk.tail == Tail::exact) {
    if (!contains(allowed, 1)) refuse("the tail `exact` needs 1 in allowed_t");
    if (chunk.lookahead) refuse("the tail `exact` allows no look-ahead");
    if (!json.value("causal", true) && allowed.size() > 1) {
      refuse("the tail is `exact`, causal is false, and several T are allowed");
    }
  }
  std::vector<double> fills;
  if (json.contains("pad_value") != (chunk.tail == Tail::pad)) {
    refuse("pad_value and the tail `pad` need each other");
  }
  if (json.contains("lookback_fill") != (chunk.lookback > 0)) {
    refuse("lookback_fill and lookback need each other");
  }
  if (json.contains("pad_value")) fills.push_back(chunk.pad_value);
  if (json.contains("lookback_fill")) fills.push_back(chunk.lookback_fill);
  check_content(chunk, json, fills);
}

void check_constant(const Constant& constant, const Json& values) {
  if (product(constant.shape) != values.size()) {
    refuse("constant " + constant.input + " has another number of values than its shape");
  }
  for (const Json& value : values) {
    if (value.is_number_float() && !is_float(constant.dtype)) {
      refuse("constant " + constant.input + " holds a fraction");
    }
    if (constant.dtype != DST_INT64 || !value.is_number_integer()) {
      fits("constant " + constant.input, constant.dtype, value.get<double>());
    }
  }
}

void check_output(const Output& output, const Json& json) {
  const std::string where = "output " + output.name;
  letters(where, output.shape, "B", "T");
  if (output.meaning != "custom" && !is_float(output.dtype)) refuse(where + ": expected floats");
  const auto levels = json.value("levels", std::vector<double>{});
  if ((output.meaning == "quantiles") == levels.empty())
    refuse(where + ": levels are for quantiles");
  for (const double level : levels) {
    if (!(level > 0 && level < 1)) refuse(where + ": a level is not in (0, 1)");
  }
  if (!levels.empty()) {
    const Axis last = output.shape.back();
    if (last.letter || last.size != static_cast<int64_t>(levels.size())) {
      refuse(where + ": the last axis has not as many places as there are levels");
    }
  }
}

void check_state(const State& state) {
  const std::string where = "state " + state.input;
  letters(where, state.shape, "B", "");
  fits(where, state.dtype, state.fill);
  if (!is_float(state.dtype) && !is_whole(state.fill))
    refuse(where + " cannot start at a fraction");
}

void check_contract(const Manifest& manifest, const Json& contract) {
  check_chunk(manifest.chunk, contract.at("chunk"));
  std::vector<std::string> inputs{manifest.chunk.input}, outputs;
  for (const Port& one : manifest.stream_inputs) inputs.push_back(one.input);
  for (const Constant& one : manifest.constants) inputs.push_back(one.input);
  for (const State& one : manifest.state) {
    inputs.push_back(one.input);
    outputs.push_back(one.output);
  }
  for (const Output& one : manifest.outputs) outputs.push_back(one.name);
  unique("graph input", inputs);
  unique("graph output", outputs);
  if (manifest.outputs.empty()) refuse("contract.outputs is empty");
  for (size_t i = 0; i < manifest.constants.size(); ++i) {
    check_constant(manifest.constants[i], contract.at("constants")[i].at("values"));
  }
  for (const Port& one : manifest.stream_inputs) letters(one.input, one.shape, "", "B");
  for (size_t i = 0; i < manifest.outputs.size(); ++i) {
    check_output(manifest.outputs[i], contract.at("outputs")[i]);
  }
  for (const State& one : manifest.state) check_state(one);
  for (const Graph& graph : manifest.graphs) {
    if (graph.answers.empty()) continue;
    inputs.push_back(graph.answers);
    unique("graph input", inputs);
    inputs.pop_back();
  }
}

void check_sizes(const Manifest& manifest, const Json& json) {
  std::set<std::string> whole{kInitFile, "tokenizer.json"};
  for (const Json& golden : json.value("golden", Json::array())) {
    whole.insert(golden.at("file").get<std::string>());
  }
  for (const std::string& name : whole) {
    const auto entry = manifest.files.find(name);
    if (entry != manifest.files.end() && entry->second.size > kMaxTensorFileBytes) {
      too_large(name + " has more bytes than are read whole");
    }
  }
  const Chunk& chunk = manifest.chunk;
  // Each is below 2^63 by itself; a double holds their sum, whatever it is, well enough.
  const double longest = static_cast<double>(chunk.lookback) +
                         static_cast<double>(chunk.allowed_t.back()) +
                         static_cast<double>(chunk.lookahead);
  double values = 0;
  const auto add = [&values, longest](const Shape& shape) {
    double count = 1;
    for (const Axis& axis : shape) {
      count *= axis.letter == 'T' ? longest : axis.letter ? 1 : static_cast<double>(axis.size);
    }
    values += count;
  };
  add(chunk.shape);
  for (const Output& one : manifest.outputs) add(one.shape);
  for (const State& one : manifest.state) add(one.shape);
  for (const Port& one : manifest.stream_inputs) add(one.shape);
  if (values * 8 > static_cast<double>(kMaxStreamBytes)) {
    too_large("the tensors of one stream have too many values");
  }
}

void check_graphs(const Manifest& manifest, const Json& json) {
  std::set<int64_t> covered;
  std::vector<std::string> names;
  if (manifest.graphs.empty()) refuse("graphs is empty");
  for (const Graph& graph : manifest.graphs) names.push_back(graph.file);
  unique("graph file", names);
  const bool per_item = std::any_of(manifest.outputs.begin(), manifest.outputs.end(),
                                    [](const Output& o) { return axis_of(o.shape, 'T') >= 0; });
  for (size_t i = 0; i < manifest.graphs.size(); ++i) {
    const Graph& graph = manifest.graphs[i];
    const std::string where = "graph " + graph.file;
    if (!manifest.files.count(graph.file)) refuse(where + " is not listed in files");
    if (graph.allowed_t.empty()) refuse(where + " allows no T");
    for (const int64_t t : graph.allowed_t) {
      if (!contains(manifest.chunk.allowed_t, t)) refuse(where + ": a T that the contract has not");
      covered.insert(t);
    }
    const Json& own = json.at("graphs")[i];
    for (const Json& domain : own.value("domains", Json::array({"ai.onnx"}))) {
      if (!own.at("opsets").contains(domain.get<std::string>()))
        refuse(where + ": a domain without opset");
    }
    if (!(graph.golden_tolerance >= 0)) refuse(where + ": golden_tolerance is below 0");
    if (!graph.answers.empty() && !per_item) refuse(where + ": answers, and no output is per item");
  }
  if (covered.size() != manifest.chunk.allowed_t.size()) refuse("no graph runs one of the T");
}

void check_records(const Manifest& manifest, const Json& json) {
  std::set<int64_t> runs;
  for (const Json& golden : json.value("golden", Json::array())) {
    const auto t = golden.at("t").get<int64_t>();
    if (!manifest.files.count(golden.at("file").get<std::string>()))
      refuse("a golden file is not listed");
    if (!contains(manifest.chunk.allowed_t, t)) refuse("a golden T is not in chunk.allowed_t");
    if (!runs.insert(t).second) refuse("golden has two entries for one T");
  }
  for (const Json& one : json.value("certificates", Json::array())) {
    const size_t count = one.at("curve").at("steps").size();
    for (const Json& tensor : one.at("curve").at("tensors")) {
      if (tensor.size() != count) refuse("a curve has another number of points than steps");
    }
  }
}

void check_quality(const Json& quality) {
  const auto positions = quality.at("positions").get<std::vector<int64_t>>();
  if (positions.empty() || positions[0] < 1 || !rising(positions)) {
    refuse("quality.positions does not rise from 1 or more");
  }
  for (const char* name : {"divergence", "state_distance", "loss_difference"}) {
    if (quality.contains(name) && quality[name].size() != positions.size()) {
      refuse(std::string("quality.") + name + " has another number of values than positions");
    }
  }
  bool failed = false, open = false;
  for (const Json& gate : quality.at("gates")) {
    const bool judged = gate.contains("value");
    const bool held = judged && gate["value"].get<double>() <= gate.at("bound").get<double>();
    if (gate.at("verdict") != (!judged ? "not judged" : held ? "passed" : "failed")) {
      refuse("the verdict of a gate does not follow from its value");
    }
    failed |= judged && !held;
    open |= !judged;
  }
  const Json passed = failed ? Json(false) : open ? Json(nullptr) : Json(true);
  if (quality.value("passed", Json(nullptr)) != passed) {
    refuse("quality.passed does not follow from its gates");
  }
}

}  // namespace

bool plain_name(const std::string& name) {
  static const std::string inner =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
  if (name.empty() || name.size() > 128 || name.find_first_not_of(inner) != std::string::npos) {
    return false;
  }
  if (name.front() == '.' || name.front() == '-' || name.back() == '.') return false;
  std::string low = name;
  for (char& c : low) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  const std::string stem = low.substr(0, low.find('.'));
  const bool port = stem.size() == 4 && stem[3] >= '0' && stem[3] <= '9' &&
                    (stem.substr(0, 3) == "com" || stem.substr(0, 3) == "lpt");
  const bool device = stem == "con" || stem == "prn" || stem == "aux" || stem == "nul" || port;
  return low != "manifest.json" && !device;
}

void check_rules(const Manifest& manifest, const Json& json) {
  check_contract(manifest, json.at("contract"));
  std::vector<std::string> low;
  for (const auto& [name, entry] : manifest.files) {
    if (!plain_name(name)) {
      fail(DST_BUNDLE, "path-outside",
           "manifest.json: files lists " + shown(name) + ", which is no plain file name");
    }
    low.push_back(name);
    for (char& c : low.back()) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  }
  unique("file (letter case aside)", low);
  check_sizes(manifest, json);
  check_graphs(manifest, json);
  check_records(manifest, json);
  if (json.contains("quality")) {
    if (!json.contains("recipe") && manifest.precision == "float32") {
      refuse("quality is given for full precision");
    }
    check_quality(json["quality"]);
  }
  const Json horizon = json.value("horizon", Json::object());
  if (horizon.contains("half_life_items") && horizon["half_life_items"].get<double>() <= 0) {
    refuse("horizon.half_life_items is not positive");
  }
  for (const State& state : manifest.state) {
    if (state.stored && !manifest.files.count(kInitFile)) {
      refuse("a state tensor is stored, and init.safetensors is not listed");
    }
  }
  if (manifest.chunk.tokenizer == "tokenizers" && !manifest.files.count("tokenizer.json")) {
    refuse("the tokenizer is `tokenizers`, and tokenizer.json is not listed");
  }
}

}  // namespace dst::core
