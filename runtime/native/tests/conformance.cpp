// Run the conformance suite of tests/conformance through dst.h.
//
//   conformance SUITE WORK           run everything; exit 1 where anything is not as expected
//   conformance SUITE WORK --save    and save the states that the suite wants of each language
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <set>

#include "arrays.h"
#include "base/json.h"
#include "dst.hpp"

namespace fs = std::filesystem;
using dst::core::Json;
using dst::tests::Array;

namespace {

struct Wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size()) {
    text.replace(at, what.size(), by);
  }
  return text;
}

void expect(bool good, const std::string& what) {
  if (!good) throw Wrong(what);
}

class Player {
 public:
  Player(const fs::path& root, const Json& script, const std::map<std::string, Array>& arrays,
         fs::path work)
      : root_(root), arrays_(arrays), work_(std::move(work)), session_(open(script)) {
    info_ = session_.describe();
  }

  dst::Stream& stream(const std::string& name) { return streams_.at(name); }

  void run(const Json& call) {
    const std::string kind = call.at("call");
    answered_ = false;
    tokens_.clear();
    std::string code;
    try {
      act(kind, call);
    } catch (const dst::Error& error) {
      code = error.code;
      expect(call.value("error", "no error") == code,
             code + " (" + error.what() + "), expected " + call.value("error", "no error"));
      return;
    }
    expect(!call.contains("error"), "no error, expected " + call.value("error", ""));
    if (call.contains("expect")) compare(call);
  }

 private:
  dst::Session open(const Json& script) {
    const Json told = script.value("open", Json::object());
    dst_session_options options;
    dst_session_options_init(&options);
    const auto sizes = told.value("chunk_sizes", std::vector<int32_t>{});
    if (!sizes.empty()) {
      options.chunk_sizes = sizes.data();
      options.chunk_size_count = sizes.size();
    }
    options.check_state_every = told.value("check_state_every", 64);
    const std::string bundle = script.at("bundle");
    return dst::Session((root_ / "bundles" / bundle).string(), &options);
  }

  const Array& array(const Json& call, const char* field) {
    return arrays_.at(call.at(field).get<std::string>());
  }

  void add(const std::string& name, dst::Stream stream) {
    streams_.erase(name);
    streams_.emplace(name, std::move(stream));
  }

  void act(const std::string& kind, const Json& call) {
    if (kind == "stream") {
      std::vector<dst_named_tensor> inputs;
      const Json given = call.value("inputs", Json::object());
      for (const auto& [name, ref] : given.items()) {
        inputs.push_back({name.c_str(), arrays_.at(ref.get<std::string>()).tensor()});
      }
      return add(call.at("as"), dst::Stream(session_, inputs));
    }
    if (kind == "load") {
      const bool ours = call.contains("file");
      const fs::path path = ours ? root_ / call["file"].get<std::string>()
                                 : work_ / call.at("from").get<std::string>();
      const uint32_t flags = call.value("allow_precision", false) ? DST_ALLOW_PRECISION : 0;
      return add(call.at("as"), dst::Stream::load(session_, path.string(), flags));
    }
    now_ = &streams_.at(call.at("stream").get<std::string>());
    const uint32_t flags = call.value("last", false) ? DST_LAST : 0;
    if (kind == "step") {
      now_->step(array(call, "chunk").tensor(), flags);
      answered_ = true;
    } else if (kind == "advance") {
      now_->advance(array(call, "items").tensor(), flags);
      answered_ = true;
    } else if (kind == "flush") {
      now_->flush();
      answered_ = true;
    } else if (kind == "generate") {
      generate(call);
    } else if (kind == "snapshot") {
      snapshots_.erase(call.at("as"));
      snapshots_.emplace(call.at("as"), now_->snapshot());
    } else if (kind == "restore") {
      now_->restore(snapshots_.at(call.at("from").get<std::string>()));
    } else if (kind == "fork") {
      add(call.at("as"), now_->fork());
    } else if (kind == "reset") {
      now_->reset();
    } else if (kind == "save") {
      now_->save((work_ / call.at("as").get<std::string>()).string());
    } else if (kind == "bytes") {
      const std::vector<uint8_t> bytes = now_->to_bytes();
      if (call.contains("same_as")) {
        const std::string path = (root_ / call["same_as"].get<std::string>()).string();
        expect(bytes == dst::tests::read_all(path), "other bytes than " + path);
      }
      add(call.at("as"), dst::Stream::from_bytes(session_, bytes));
    } else {
      expect(kind == "look", "no such call");
    }
  }

  void generate(const Json& call) {
    const uint64_t seed = std::stoull(call.value("seed", "0"));
    const auto stop = call.value("stop", std::vector<int64_t>{});
    const dst_sampling sampling{call.value("temperature", 1.0),
                                call.value("top_k", int64_t{0}),
                                call.value("top_p", 1.0),
                                call.contains("seed") ? &seed : nullptr,
                                stop.data(),
                                stop.size()};
    tokens_.resize(call.at("items").get<size_t>());
    size_t made = 0;
    const dst_tensor prompt = array(call, "prompt").tensor();
    dst::check(dst_stream_generate(now_->get(), &prompt, tokens_.size(), &sampling, tokens_.data(),
                                   &made));
    tokens_.resize(made);
  }

  void compare(const Json& call) {
    const bool exact = call.value("exact", true);
    for (const auto& [key, right] : call.at("expect").items()) {
      if (key == "outputs" || key == "state") {
        const bool outputs = key == "outputs";
        const size_t count = outputs ? info_.output_count : info_.state_count;
        expect(right.size() == count, key + " has another number of tensors");
        for (size_t i = 0; i < count; ++i) {
          const std::string name = outputs ? dst_session_output_name(session_.get(), i)
                                           : dst_session_state_name(session_.get(), i);
          const Array& array = arrays_.at(right.at(name).get<std::string>());
          compare(key + " " + name, outputs ? now_->output(i) : now_->state(i), array, exact);
        }
      } else if (key == "tokens") {
        expect(right.get<std::vector<int64_t>>() == tokens_, "other tokens");
      } else if (key == "items_consumed") {
        expect(right.get<uint64_t>() == now_->items_consumed(), "other items_consumed");
      } else if (key == "pending") {
        expect(right.get<size_t>() == now_->pending(), "other pending");
      } else {
        expect(key == "sampler", "no such expectation: " + key);
        uint64_t seed = 0, draws = 0;
        Json found = nullptr;
        if (dst_stream_sampler(now_->get(), &seed, &draws)) {
          found = {{"seed", std::to_string(seed)}, {"draws", std::to_string(draws)}};
        }
        expect(found == right, "sampler is " + found.dump() + ", expected " + right.dump());
      }
    }
  }

  void compare(const std::string& where, const dst_tensor& found, const Array& right, bool exact) {
    const std::vector<int64_t> shape(found.shape, found.shape + found.rank);
    expect(found.dtype == right.dtype && shape == right.shape,
           where + " has shape " + dst::core::spelled(shape) + ", expected " +
               dst::core::spelled(right.shape));
    if (right.bytes.empty()) return;
    if (exact || !dst::core::is_float(found.dtype)) {
      expect(std::memcmp(found.data, right.bytes.data(), right.bytes.size()) == 0,
             where + " has other bits than expected");
    } else {
      const double error = dst::tests::relative_error(found, right);
      expect(error <= info_.tolerance, where + " has an error of " + std::to_string(error));
    }
  }

  fs::path root_;
  const std::map<std::string, Array>& arrays_;
  fs::path work_;
  dst::Session session_;
  dst_session_info info_;
  std::map<std::string, dst::Stream> streams_;
  std::map<std::string, dst::Snapshot> snapshots_;
  dst::Stream* now_ = nullptr;
  bool answered_ = false;
  std::vector<int64_t> tokens_;
};

fs::path emptied(const fs::path& folder) {
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

void run_script(const fs::path& root, const std::string& group, const std::string& name,
                const fs::path& work, bool save) {
  const auto bytes = dst::tests::read_all((root / "scripts" / group / (name + ".json")).string());
  const std::string text(bytes.begin(), bytes.end());
  std::set<std::string> languages{""};
  if (Json::parse(text).value("each_language", false)) {
    languages.clear();
    for (const auto& entry : fs::directory_iterator(root / "states")) {
      languages.insert(entry.path().filename().string());
    }
  }
  const auto arrays =
      dst::tests::read_arrays((root / "scripts" / (group + ".safetensors")).string(), name + "/");
  for (const std::string& language : languages) {
    const Json script = Json::parse(replaced(text, "{language}", language));
    Player player(root, script, arrays, emptied(work));
    for (size_t i = 0; i < script.at("calls").size(); ++i) {
      const Json& call = script["calls"][i];
      try {
        player.run(call);
      } catch (const std::exception& error) {
        throw Wrong("call " + std::to_string(i) + " " + call.dump().substr(0, 60) + " " + language +
                    ": " + error.what());
      }
    }
    if (save && group == "save") {
      fs::create_directories(root / "states/c");
      player.stream("a").save((work / "state").string());
      fs::copy_file(work / "state", root / "states/c" / (name + ".state"),
                    fs::copy_options::overwrite_existing);
    }
  }
}

void edit(const fs::path& place, const Json& edits, const std::map<std::string, Array>& files) {
  for (const Json& what : edits) {
    const fs::path file = place / what.at("file").get<std::string>();
    const std::string kind = what.at("edit");
    std::vector<uint8_t> bytes;
    if (fs::is_regular_file(file)) bytes = dst::tests::read_all(file.string());
    if (kind == "remove") {
      fs::remove(file);
      continue;
    }
    if (kind == "link") {
      fs::create_symlink(what.at("to").get<std::string>(), file);
      continue;
    }
    if (kind == "folder") {
      fs::create_directory(file);
      continue;
    }
    if (kind == "pipe") {
      expect(std::system(("mkfifo '" + file.string() + "'").c_str()) == 0, "mkfifo");
      continue;
    }
    if (kind == "put") bytes = files.at(what.at("from").get<std::string>()).bytes;
    if (kind == "truncate") bytes.resize(std::min(bytes.size(), what.at("size").get<size_t>()));
    if (kind == "flip") bytes.at(what.at("at").get<size_t>()) ^= 1 << what.at("bit").get<int>();
    if (kind == "append") {
      const std::string hex = what.at("hex");
      for (size_t i = 0; i + 1 < hex.size(); i += 2) {
        bytes.push_back(static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
      }
    }
    std::ofstream out(file, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  }
}

std::string code_of(const fs::path& root, const Json& spec, const fs::path& work,
                    const std::map<std::string, Array>& files, bool bundle) {
  try {
    const fs::path good = root / "bundles" / spec.at("bundle").get<std::string>();
    if (bundle) {
      fs::copy(good, work / "bundle", fs::copy_options::recursive);
      edit(work / "bundle", spec.at("edits"), files);
      const dst::Session session((work / "bundle").string());
      if (spec.value("after", "") == "step") dst::check(dst_session_load_graphs(session.get()));
    } else {
      if (spec.contains("state")) {
        fs::copy_file(root / "states/python" / (spec["state"].get<std::string>() + ".state"),
                      work / "state");
      }
      edit(work, spec.at("edits"), files);
      const dst::Session session(good.string());
      dst::Stream::load(session, (work / "state").string());
    }
  } catch (const dst::Error& error) {
    return error.code;
  }
  return "no error";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: conformance SUITE WORK [--save]\n"), 2;
  const fs::path root = argv[1], work = fs::path(argv[2]) / "conformance";
  const bool save = argc > 3 && std::strcmp(argv[3], "--save") == 0;
  int ran = 0, failed = 0;
  const auto attempt = [&](const std::string& name, auto&& action) {
    ++ran;
    try {
      action();
    } catch (const std::exception& error) {
      ++failed;
      std::cout << "FAILED " << name << ": " << error.what() << "\n";
    }
  };
  for (const auto& entry : fs::recursive_directory_iterator(root / "scripts")) {
    if (entry.path().extension() != ".json") continue;
    const std::string group = entry.path().parent_path().filename().string();
    const std::string name = entry.path().stem().string();
    attempt(group + "/" + name, [&] { run_script(root, group, name, work, save); });
  }
  const auto files = dst::tests::read_arrays((root / "malformed/files.safetensors").string(), "");
  for (const char* kind : {"bundles", "states"}) {
    const auto bytes =
        dst::tests::read_all((root / "malformed" / (std::string(kind) + ".json")).string());
    for (const Json& spec : Json::parse(bytes.begin(), bytes.end())) {
      attempt("malformed " + spec.at("name").get<std::string>(), [&] {
        const std::string code =
            code_of(root, spec, emptied(work), files, std::strcmp(kind, "bundles") == 0);
        expect(code == spec.at("code"), code + ", expected " + spec.at("code").get<std::string>());
      });
    }
  }
  fs::remove_all(work);
  std::cout << ran - failed << " of " << ran << " passed\n";
  return failed == 0 && ran > 0 ? 0 : 1;
}
