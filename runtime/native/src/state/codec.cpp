#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "state/record.h"

namespace dst::core {

namespace {

constexpr const char kOpening[] = "{\"__metadata__\":{\"checksum\":\"";
constexpr size_t kSumAt = 8 + sizeof kOpening - 1;
constexpr size_t kSumSize = 32;
constexpr const char* kBlank = "00000000000000000000000000000000";
constexpr const char* kVersion = "2";
constexpr uint64_t kMaxCount = INT64_MAX;  // no stream gets so far

std::string quoted(const std::string& text) { return canonical(Json(text)); }

std::string checksum(const uint8_t* head, size_t size, const std::vector<Part>& body) {
  Checksum sum;
  sum.add(head, kSumAt);
  sum.add(kBlank, kSumSize);
  sum.add(head + kSumAt + kSumSize, size - kSumAt - kSumSize);
  for (const auto& [bytes, count] : body) sum.add(bytes, count);
  return sum.hex();
}

// --- reading

uint64_t count_in(const std::string& text, uint64_t most) {
  const bool digits = !text.empty() && text.size() <= 20 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || (text.size() > 1 && text[0] == '0'))
    throw std::runtime_error("a count is no number");
  uint64_t value = 0;
  for (const char digit : text) {
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(digit - '0'), &value)) {
      throw std::runtime_error("a count is too large");
    }
  }
  if (value > most) throw std::runtime_error("a count is too large");
  return value;
}

bool is_hash(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Raised where only the version is of another kind, which the caller is told by its own code.
struct OtherVersion {};

void read_metadata(const Json& json, Record* record) {
  static const std::vector<std::string> wanted{
      "checksum",  "format",    "version",        "model_id", "state_hash",
      "bundle_id", "precision", "items_consumed", "seed",     "draws"};
  if (!json.is_object()) throw std::runtime_error("its metadata is no object");
  const auto version = json.find("version");
  if (version != json.end() && !version->is_string() && !version->is_null()) {
    throw std::runtime_error("its version is no text");
  }
  if (version == json.end() || *version != kVersion) throw OtherVersion();
  size_t known = 0;
  for (const auto& [name, value] : json.items()) {
    if (!value.is_string()) throw std::runtime_error("its metadata holds more than texts");
    if (std::find(wanted.begin(), wanted.end(), name) != wanted.end()) {
      ++known;
    } else if (name != "constants") {
      throw std::runtime_error("its metadata has an unknown field");
    }
  }
  if (known != wanted.size()) throw std::runtime_error("its metadata lacks a field");
  const auto text = [&json](const char* name) { return json.at(name).get<std::string>(); };
  Identity& identity = record->identity;
  identity = {text("model_id"), text("state_hash"), text("bundle_id"), text("precision"), {}};
  if (text("format") != "dst-state" || !is_hash(identity.model_id) ||
      !is_hash(identity.state_hash) || !is_hash(identity.bundle_id)) {
    throw std::runtime_error("a field of its metadata is not of its form");
  }
  if (!is_name(identity.precision)) throw std::runtime_error("its precision has no name");
  const std::string constants = json.value("constants", "");
  if (!constants.empty()) {
    const Json marks = parse_json(constants);
    if (!marks.is_object() || marks.empty() || canonical(marks) != constants) {
      throw std::runtime_error("its constants are not in canonical form");
    }
    for (const auto& [name, mark] : marks.items()) {
      if (!is_name(name) || !mark.is_string()) {
        throw std::runtime_error("a constant is not told by a name and a text");
      }
      identity.constants[name] = mark.get<std::string>();
    }
  }
  record->items = count_in(text("items_consumed"), kMaxCount);
  const uint64_t draws = count_in(text("draws"), kMaxCount);
  if (!text("seed").empty()) record->sampler = Sampler{count_in(text("seed"), UINT64_MAX), draws};
}

void read_tensors(const Json& header, size_t rest, Record* record) {
  struct Span {
    size_t begin, end;
    RecordTensor tensor;
  };
  std::vector<Span> spans;
  for (const auto& [name, told] : header.items()) {
    if (name == "__metadata__") continue;
    if (name != "pending" && name != "lookback" && name.rfind("state/", 0) != 0 &&
        name.rfind("stream/", 0) != 0) {
      throw std::runtime_error("it holds an unknown tensor");
    }
    RecordTensor tensor{name, DST_FLOAT32, {}, nullptr, 0};
    if (!told.is_object() || told.size() != 3 ||
        !dtype_coded(told.at("dtype").get<std::string>(), &tensor.dtype)) {
      throw std::runtime_error("a tensor of it is not described right");
    }
    tensor.shape = counts_in(told.at("shape"));
    const Sizes offsets = counts_in(told.at("data_offsets"));
    Sizes longest = tensor.shape;
    for (int64_t& size : longest) size = std::max<int64_t>(size, 1);
    const uint64_t values = product(tensor.shape), most = product(longest);
    const size_t item = item_size(tensor.dtype);
    if (tensor.shape.size() > 16 || offsets.size() != 2 || most > kMaxStreamBytes / item ||
        offsets[1] < offsets[0] ||
        static_cast<uint64_t>(offsets[1] - offsets[0]) != values * item) {
      throw std::runtime_error("a tensor of it does not fit its shape");
    }
    tensor.size = static_cast<size_t>(offsets[1] - offsets[0]);
    spans.push_back({static_cast<size_t>(offsets[0]), static_cast<size_t>(offsets[1]),
                     std::move(tensor)});
  }
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  size_t end = 0;
  for (Span& span : spans) {
    if (span.begin != end) throw std::runtime_error("there is a gap between two tensors");
    end = span.end;
    span.tensor.data = record->storage.data() + (record->storage.size() - rest) + span.begin;
    record->tensors.push_back(std::move(span.tensor));
  }
  if (end != rest) throw std::runtime_error("its tensors do not fill it");
  if (record->find("pending") == nullptr || record->find("lookback") == nullptr) {
    throw std::runtime_error("it has no tensor of items");
  }
}

[[noreturn]] void corrupt(const char* code, const std::string& why) {
  fail(DST_STATE_CORRUPT, code, shown(why));
}

[[noreturn]] void other_version() {
  fail(DST_STATE_MISMATCH, "state-version", "its format version is none that this runtime reads");
}

}  // namespace

std::vector<Part> pack(Record* record, std::string* header) {
  if (record->items > kMaxCount || (record->sampler && record->sampler->draws > kMaxCount)) {
    fail(DST_STATE, "state-numbers", "a counter has passed 2^63 - 1; reset the stream");
  }
  std::stable_sort(record->tensors.begin(), record->tensors.end(),
                   [](const RecordTensor& a, const RecordTensor& b) {
                     const size_t wide = item_size(a.dtype), other = item_size(b.dtype);
                     return wide != other ? wide > other : a.name < b.name;
                   });
  const Identity& identity = record->identity;
  std::string text = kOpening;
  text += kBlank;
  text +=
      "\",\"format\":\"dst-state\",\"version\":\"2\",\"model_id\":" + quoted(identity.model_id) +
      ",\"state_hash\":" + quoted(identity.state_hash) +
      ",\"bundle_id\":" + quoted(identity.bundle_id) +
      ",\"precision\":" + quoted(identity.precision) + ",\"items_consumed\":\"" +
      std::to_string(record->items) + "\",\"seed\":\"" +
      (record->sampler ? std::to_string(record->sampler->seed) : "") + "\",\"draws\":\"" +
      std::to_string(record->sampler ? record->sampler->draws : 0) + "\"";
  if (!identity.constants.empty()) {
    text += ",\"constants\":" + quoted(canonical(Json(identity.constants)));
  }
  text += "}";
  size_t end = 0;
  std::vector<Part> body;
  for (const RecordTensor& tensor : record->tensors) {
    text += "," + quoted(tensor.name) + ":{\"dtype\":\"" + dtype_code(tensor.dtype) +
            "\",\"shape\":" + canonical(Json(tensor.shape)) + ",\"data_offsets\":[" +
            std::to_string(end) + "," + std::to_string(end + tensor.size) + "]}";
    end += tensor.size;
    body.emplace_back(tensor.data, tensor.size);
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  header->assign(8, '\0');
  for (int i = 0; i < 8; ++i) {
    (*header)[i] = static_cast<char>(static_cast<uint64_t>(text.size()) >> (8 * i));
  }
  *header += text;
  const auto* head = reinterpret_cast<const uint8_t*>(header->data());
  header->replace(kSumAt, kSumSize, checksum(head, header->size(), body));
  body.insert(body.begin(), {header->data(), header->size()});
  return body;
}

Record unpack(std::vector<uint8_t> bytes) {
  Record record;
  record.storage = std::move(bytes);
  const uint8_t* data = record.storage.data();
  const size_t size = record.storage.size();
  if (size < kSumAt || std::memcmp(data + 8, kOpening, sizeof kOpening - 1) != 0) {
    corrupt("state-header", "it is no saved state, or its beginning was altered");
  }
  // The checksum comes before anything that the header says is believed.
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (size < kSumAt + kSumSize || checksum(data, size, {}) != text.substr(kSumAt, kSumSize)) {
    static const std::string old = "\",\"format\":\"dst-state\",\"version\":\"1\"";
    const std::string_view told = text.substr(kSumAt);  // version 1 had a SHA-256 here
    if (told.size() >= 64 + old.size() && is_hash(std::string(told.substr(0, 64))) &&
        told.substr(64, old.size()) == old) {
      other_version();
    }
    corrupt("state-checksum", "its bytes do not match its checksum");
  }
  uint64_t length = 0;
  for (int i = 0; i < 8; ++i) length |= static_cast<uint64_t>(data[i]) << (8 * i);
  try {
    if (length > size - 8) throw std::runtime_error("its header ends behind it");
    const Json header = parse_json(text.substr(8, static_cast<size_t>(length)));
    if (!header.is_object() || !header.contains("__metadata__")) {
      throw std::runtime_error("it has no metadata");
    }
    read_metadata(header.at("__metadata__"), &record);
    read_tensors(header, size - 8 - static_cast<size_t>(length), &record);
  } catch (const OtherVersion&) {
    other_version();
  } catch (const std::exception& error) {
    corrupt("state-header",
            std::string("its checksum holds but its content does not: ") + error.what());
  }
  return record;
}

}  // namespace dst::core
