#include "bundle/reader.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

namespace dst::core {

namespace fs = std::filesystem;

namespace {

constexpr const char* kManifestFile = "manifest.json";

[[noreturn]] void refuse(const char* code, const std::string& what) {
  fail(DST_BUNDLE, code, shown(what));
}

// Read a file that had this size when the folder was listed.
std::vector<uint8_t> read_file(const std::string& path, uint64_t size) {
  ReadFile file(path);
  if (file.size() != size) throw std::runtime_error("it changed while it was read");
  return file.all();
}

// The size of every file in the folder, by name.
std::map<std::string, uint64_t> listing(const std::string& root) {
  std::map<std::string, uint64_t> sizes;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    const fs::file_status status = entry.symlink_status();
    if (fs::is_symlink(status)) refuse("file-is-link", name + " is a link");
    if (!fs::is_regular_file(status)) refuse("file-not-regular", name + " is no plain file");
    sizes[name] = entry.file_size();
  }
  return sizes;
}

Manifest checked(const std::string& root, bool hash) {
  auto sizes = listing(root);
  const auto own = sizes.find(kManifestFile);
  if (own == sizes.end()) refuse("file-missing", "has no manifest.json; is this a bundle?");
  if (own->second > kMaxManifestBytes) refuse("file-too-large", "manifest.json is too large");
  const std::vector<uint8_t> bytes = read_file(root + "/" + kManifestFile, own->second);
  sizes.erase(own);
  Manifest manifest = decode_manifest({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  for (const auto& [name, size] : sizes) {
    if (!manifest.files.count(name)) refuse("file-unlisted", name + " is not listed");
  }
  for (const auto& [name, entry] : manifest.files) {
    const auto held = sizes.find(name);
    if (held == sizes.end()) refuse("file-missing", name + " is listed and missing");
    if (held->second != entry.size) {
      refuse("file-size", name + " has " + std::to_string(held->second) +
                              " bytes, manifest.json says " + std::to_string(entry.size));
    }
  }
  if (hash) {
    for (const auto& [name, entry] : manifest.files) {
      if (sha256_of_file(root + "/" + name) != entry.sha256) {
        refuse("file-hash", name + " was altered, get the bundle again");
      }
    }
  }
  return manifest;
}

}  // namespace

Bundle open_bundle(const std::string& path, bool hash) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    fail(DST_BUNDLE, "bundle-not-found", "bundle " + shown(path) + ": no such directory");
  }
  Bundle bundle;
  std::string label;
  try {
    bundle.root = fs::canonical(path).string();
    label = "bundle " + shown(fs::path(bundle.root).filename().string()) + "/";
    bundle.manifest = checked(bundle.root, hash);
  } catch (const Error& wrong) {
    throw Error(wrong.status, wrong.code, label + ": " + wrong.message);
  } catch (const std::runtime_error& wrong) {  // the file system's own errors are among them
    fail(DST_BUNDLE, "bundle-unreadable",
         "bundle " + shown(path) + ": cannot be read: " + shown(wrong.what()));
  }
  bundle.label = label;
  return bundle;
}

size_t read_tensors(const std::vector<uint8_t>& file, std::vector<StoredTensor>* tensors) {
  uint64_t length = 0;
  if (file.size() < 8) throw std::runtime_error("it ends too early");
  for (int i = 0; i < 8; ++i) length |= static_cast<uint64_t>(file[i]) << (8 * i);
  if (length > file.size() - 8) throw std::runtime_error("its header ends behind the file");
  const Json header =
      parse_json({reinterpret_cast<const char*>(file.data()) + 8, static_cast<size_t>(length)});
  if (!header.is_object()) throw std::runtime_error("its header is no object");
  for (const auto& [name, told] : header.items()) {
    if (name == "__metadata__") continue;
    StoredTensor tensor;
    tensor.name = name;
    try {
      const Sizes offsets = counts_in(told.at("data_offsets"));
      tensor.shape = counts_in(told.at("shape"));
      if (offsets.size() != 2 || offsets[0] > offsets[1] || static_cast<uint64_t>(offsets[1]) > file.size() ||
          !dtype_coded(told.at("dtype").get<std::string>(), &tensor.dtype)) {
        throw std::runtime_error("");
      }
      tensor.begin = static_cast<size_t>(offsets[0]);
      tensor.size = static_cast<size_t>(offsets[1] - offsets[0]);
    } catch (const std::exception&) {
      throw std::runtime_error("a tensor of it is not described right");
    }
    const uint64_t values = product(tensor.shape);
    if (values > file.size() || values * item_size(tensor.dtype) != tensor.size) {
      throw std::runtime_error("a tensor of it does not fit its shape");
    }
    tensors->push_back(std::move(tensor));
  }
  std::sort(tensors->begin(), tensors->end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.begin, a.size) < std::pair(b.begin, b.size);
  });
  size_t end = 0;
  for (const StoredTensor& tensor : *tensors) {
    if (tensor.begin != end) throw std::runtime_error("there is a gap between two tensors");
    end += tensor.size;
  }
  const size_t body = 8 + static_cast<size_t>(length);
  if (end != file.size() - body) throw std::runtime_error("its tensors do not fill it");
  return body;
}

std::vector<std::vector<uint8_t>> initial_tensors(const Bundle& bundle) {
  const std::vector<State>& states = bundle.manifest.state;
  std::vector<std::vector<uint8_t>> found(states.size());
  if (std::none_of(states.begin(), states.end(), [](const State& s) { return bool(s.stored); })) {
    return found;
  }
  std::vector<uint8_t> file;
  std::vector<StoredTensor> tensors;
  size_t body = 0;
  const std::string where = bundle.label + ": " + kInitFile;
  try {
    file = read_file(bundle.path_of(kInitFile), bundle.manifest.files.at(kInitFile).size);
    body = read_tensors(file, &tensors);
  } catch (const std::runtime_error& error) {
    fail(DST_BUNDLE, "tensors-unreadable", where + ": " + shown(error.what()));
  }
  for (size_t i = 0; i < states.size(); ++i) {
    if (!states[i].stored) continue;
    const auto held = std::find_if(tensors.begin(), tensors.end(), [&](const StoredTensor& t) {
      return t.name == *states[i].stored;
    });
    if (held == tensors.end() || held->dtype != states[i].dtype ||
        held->shape != sized(states[i].shape, 0)) {
      fail(DST_BUNDLE, "init-tensors",
           where + ": state " + shown(states[i].input) +
               " starts from a tensor that is missing or of another dtype or shape");
    }
    const auto* begin = file.data() + body + held->begin;
    found[i].assign(begin, begin + held->size);
  }
  return found;
}

}  // namespace dst::core
