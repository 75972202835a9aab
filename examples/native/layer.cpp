// A whole DST-GD network at T = 1, for one stream: embedding, layers and head, with int8 weights
// per column and one scale per item (recipe int8-rows). Everything else is float32.
//
//   g++ -std=c++17 -O3 -march=native -fno-trapping-math -fPIC -shared
//       examples/native/layer.cpp -o out/layer.so
//
// -fno-trapping-math changes no result: it lets the compiler vectorize loops that call exp_fast.
//
// It computes what dst/export/model computes (layer.py, attention.py, recurrence.py), with three
// liberties that a graph of operators does not have: the convolution keeps its past by tap, the
// window is a ring in which nothing moves, and the query is turned instead of the window's keys.
//
// Shape letters: D width, H memories, K/V their key/value width, A attention heads, d their width,
// W window, P = H(2K+V) channels of the memories' q, k and v.

#include <cstdio>

#include "kernels.h"

namespace {

using native::Product;
using native::RoundedItem;
using std::vector;

constexpr int kTaps = 4;
constexpr float kEps = 1e-6f, kRecallEps = 1e-3f, kLengthEps = 1e-4f;

size_t whole_panels(int n) {
  return static_cast<size_t>(n + Product::kPanel - 1) / Product::kPanel * Product::kPanel;
}

// The flat file that compare.py writes: sizes, then tensors in the order in which they are read.
class Reader {
 public:
  explicit Reader(const char* path) : file_(std::fopen(path, "rb")) {}
  ~Reader() {
    if (file_ != nullptr) std::fclose(file_);
  }
  template <class T>
  vector<T> take(size_t count) {
    vector<T> values(count);
    ok_ = file_ != nullptr && std::fread(values.data(), sizeof(T), count, file_) == count && ok_;
    return values;
  }
  Product product(int k, int n) {
    const vector<int8_t> weight = take<int8_t>(static_cast<size_t>(k) * n);
    const vector<float> scale = take<float>(n);
    Product packed;
    if (ok_) packed.pack(weight.data(), scale.data(), k, n);
    return packed;
  }
  bool ok() const { return ok_; }

 private:
  std::FILE* file_;
  bool ok_ = true;
};

struct Sizes {
  int width, layers, heads, key, value;
  int attention_heads, attention_width, window, hidden, vocabulary;
  int channels() const { return heads * (2 * key + value); }
  int recalled() const { return heads * value; }
  int local() const { return attention_heads * attention_width; }
};

struct Layer {
  vector<float> mix_norm, gates, conv, decay_rate, dt_bias, head_norm, q_norm, k_norm, feed_norm;
  Product mix_in, mix_out, feed_in, feed_out;
  // state
  vector<float> memory;  // (H, K, V)
  vector<float> past;    // (3, P), oldest first
  vector<float> keys;    // (A, W, d), a ring: after the norm, before RoPE
  vector<float> values;  // (A, W, d)
};

struct Network {
  Sizes s;
  float log_alpha_max, beta_max;
  vector<Layer> layers;
  vector<float> out_norm, embedding_scale, unit;
  vector<int8_t> embedding;  // (vocabulary, D)
  Product head;
  vector<float> cos, sin;  // (W+1, d/2): of the distance between a query and a key
  int64_t seen = 0;        // items so far; the ring's next place is seen % W
  // work of one step, made once: a step allocates nothing
  vector<float> x, u, mixed, p, joined, wide, q, scores;
  RoundedItem item;

  bool load(const char* path);
  void reset();
  void step(int64_t token, float* logits);
  void products(float* logits);
  void write_state(float* out) const;

 private:
  void remember(Layer& layer);
  void attend(Layer& layer, const float* qkv, float* out);
  void window_scores(const Layer& layer, int head, const float* key);
};

bool Network::load(const char* path) {
  Reader file(path);
  const vector<int32_t> sizes = file.take<int32_t>(10);
  std::memcpy(&s, sizes.data(), sizeof s);
  const vector<float> limits = file.take<float>(2);
  if (!file.ok()) return false;
  log_alpha_max = limits[0], beta_max = limits[1];
  for (int i = 0; i < s.layers; ++i) {
    Layer l;
    l.mix_norm = file.take<float>(s.width);
    l.mix_in = file.product(s.width, s.channels() + s.recalled() + 3 * s.local());
    l.gates = file.take<float>(static_cast<size_t>(2) * s.heads * s.width);  // (2H, D)
    l.conv = file.take<float>(static_cast<size_t>(kTaps) * s.channels());    // (4, P)
    l.decay_rate = file.take<float>(s.heads);                                // -exp(A_log)
    l.dt_bias = file.take<float>(s.heads);
    l.head_norm = file.take<float>(s.value);
    l.q_norm = file.take<float>(s.attention_width);
    l.k_norm = file.take<float>(s.attention_width);
    l.mix_out = file.product(s.recalled() + s.local(), s.width);
    l.feed_norm = file.take<float>(s.width);
    l.feed_in = file.product(s.width, 2 * s.hidden);
    l.feed_out = file.product(s.hidden, s.width);
    layers.push_back(std::move(l));
  }
  out_norm = file.take<float>(s.width);
  head = file.product(s.width, s.vocabulary);
  embedding = file.take<int8_t>(static_cast<size_t>(s.vocabulary) * s.width);
  embedding_scale = file.take<float>(s.vocabulary);
  if (!file.ok()) return false;

  const int half = s.attention_width / 2;
  for (int distance = 0; distance <= s.window; ++distance)
    for (int i = 0; i < half; ++i) {
      const double angle = distance * std::pow(10000.0, -2.0 * i / s.attention_width);
      cos.push_back(static_cast<float>(std::cos(angle)));
      sin.push_back(static_cast<float>(std::sin(angle)));
    }
  unit.assign(s.key, 1.0f / std::sqrt(static_cast<float>(s.key)));
  x.resize(whole_panels(s.width)), u.resize(whole_panels(s.width));
  mixed.resize(whole_panels(layers[0].mix_in.outputs)), p.resize(s.channels());
  joined.resize(s.recalled() + s.local());
  wide.resize(whole_panels(std::max(2 * s.hidden, s.vocabulary)));
  q.resize(s.attention_width), scores.resize(s.window + 1);
  reset();
  return true;
}

void Network::reset() {
  seen = 0;
  for (Layer& l : layers) {
    l.memory.assign(static_cast<size_t>(s.heads) * s.key * s.value, 0.0f);
    l.past.assign(static_cast<size_t>(kTaps - 1) * s.channels(), 0.0f);
    l.keys.assign(static_cast<size_t>(s.local()) * s.window, 0.0f);
    l.values.assign(l.keys.size(), 0.0f);
  }
}

void Network::step(int64_t token, float* logits) {
  const int8_t* row = embedding.data() + token * s.width;
  for (int i = 0; i < s.width; ++i) x[i] = static_cast<float>(row[i]) * embedding_scale[token];
  for (Layer& l : layers) {
    native::rms_norm(x.data(), l.mix_norm.data(), s.width, kEps, u.data());
    item.set(u.data(), s.width);
    l.mix_in.run(item, mixed.data());
    remember(l);
    attend(l, mixed.data() + s.channels() + s.recalled(), joined.data() + s.recalled());
    item.set(joined.data(), s.recalled() + s.local());
    l.mix_out.run(item, u.data());
    for (int i = 0; i < s.width; ++i) x[i] += u[i];

    native::rms_norm(x.data(), l.feed_norm.data(), s.width, kEps, u.data());
    item.set(u.data(), s.width);
    l.feed_in.run(item, wide.data());
    float* gated = wide.data();
    const float* other = gated + s.hidden;
    for (int i = 0; i < s.hidden; ++i) gated[i] *= native::sigmoid(gated[i]) * other[i];
    item.set(gated, s.hidden);
    l.feed_out.run(item, u.data());
    for (int i = 0; i < s.width; ++i) x[i] += u[i];
  }
  native::rms_norm(x.data(), out_norm.data(), s.width, kEps, u.data());
  item.set(u.data(), s.width);
  head.run(item, wide.data());
  std::copy_n(wide.data(), s.vocabulary, logits);
  ++seen;
}

// What the matrix memories recall, normed and gated, into `joined`. Reads the normed item `u` and
// its q, k, v and z in `mixed`.
void Network::remember(Layer& l) {
  const int channels = s.channels();
  native::convolve(mixed.data(), l.past.data(), l.conv.data(), channels, p.data());
  for (int head = 0; head < 2 * s.heads; ++head) {  // queries, then keys: to length 1
    float* part = p.data() + head * s.key;
    native::rms_norm(part, unit.data(), s.key, kLengthEps / s.key, part);
  }
  for (int head = 0; head < s.heads; ++head) {
    const float a =
        native::dot(u.data(), &l.gates[static_cast<size_t>(head) * s.width], s.width) +
        l.dt_bias[head];
    const float b =
        native::dot(u.data(), &l.gates[static_cast<size_t>(s.heads + head) * s.width], s.width);
    const float softplus = a > 20.0f ? a : std::log1p(std::exp(a));
    const float g = std::min(l.decay_rate[head] * softplus, log_alpha_max);
    float* out = joined.data() + head * s.value;
    native::delta_rule(&l.memory[static_cast<size_t>(head) * s.key * s.value], s.key, s.value,
                       p.data() + head * s.key, p.data() + (s.heads + head) * s.key,
                       p.data() + 2 * s.heads * s.key + head * s.value, std::exp(g),
                       beta_max / (1.0f + std::exp(-b)), out);
    native::rms_norm(out, l.head_norm.data(), s.value, kRecallEps, out);
  }
  const float* z = mixed.data() + channels;
  for (int i = 0; i < s.recalled(); ++i) joined[i] *= z[i] * native::sigmoid(z[i]);
}

// Scores of `q` against the new key (distance 0) and what the ring holds (distance 1 to W).
//
// RoPE makes a score depend on the distance alone, so the query is turned by it and the keys stay
// as they are. (A chunk turns its keys instead: it has many queries.)
void Network::window_scores(const Layer& l, int head, const float* key) {
  const int width = s.attention_width, half = width / 2;
  const int known = static_cast<int>(std::min<int64_t>(seen, s.window));
  const int next = static_cast<int>(seen % s.window);
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  const float* ring = &l.keys[static_cast<size_t>(head) * s.window * width];
  for (int distance = 0; distance <= known; ++distance) {
    const int place = next - distance + (next < distance ? s.window : 0);
    const float* k = distance == 0 ? key : ring + static_cast<size_t>(place) * width;
    const float* c = &cos[static_cast<size_t>(distance) * half];
    const float* n = &sin[static_cast<size_t>(distance) * half];
    float sum = 0.0f;
    int i = 0;
#ifdef NATIVE_AVX2
    __m256 total = _mm256_setzero_ps();
    for (; i + 8 <= half; i += 8) {
      const __m256 q1 = _mm256_loadu_ps(q.data() + i), q2 = _mm256_loadu_ps(q.data() + half + i);
      const __m256 cc = _mm256_loadu_ps(c + i), nn = _mm256_loadu_ps(n + i);
      const __m256 t1 = _mm256_fmsub_ps(q1, cc, _mm256_mul_ps(q2, nn));
      const __m256 t2 = _mm256_fmadd_ps(q2, cc, _mm256_mul_ps(q1, nn));
      total = _mm256_fmadd_ps(t1, _mm256_loadu_ps(k + i), total);
      total = _mm256_fmadd_ps(t2, _mm256_loadu_ps(k + half + i), total);
    }
    sum = native::sum8(total);
#endif
    for (; i < half; ++i) {
      sum += (q[i] * c[i] - q[half + i] * n[i]) * k[i];
      sum += (q[half + i] * c[i] + q[i] * n[i]) * k[half + i];
    }
    scores[distance] = sum * scale;
  }
}

// Attention over the window and the item itself; then the item enters the ring, over its oldest.
void Network::attend(Layer& l, const float* qkv, float* out) {
  const int width = s.attention_width;
  const int known = static_cast<int>(std::min<int64_t>(seen, s.window));
  const int next = static_cast<int>(seen % s.window);
  vector<float>& key = u;  // free by now
  for (int head = 0; head < s.attention_heads; ++head) {
    const float* value = qkv + (2 * s.attention_heads + head) * width;
    native::rms_norm(qkv + head * width, l.q_norm.data(), width, kEps, q.data());
    native::rms_norm(qkv + (s.attention_heads + head) * width, l.k_norm.data(), width, kEps,
                     key.data());
    window_scores(l, head, key.data());
    const float most = *std::max_element(scores.begin(), scores.begin() + known + 1);
    for (int i = 0; i <= known; ++i) scores[i] = native::exp_fast(scores[i] - most);
    float sum = 0.0f;
    for (int i = 0; i <= known; ++i) sum += scores[i];
    const size_t start = static_cast<size_t>(head) * s.window * width;
    float* answer = out + head * width;
    for (int i = 0; i < width; ++i) answer[i] = scores[0] * value[i];
    for (int distance = 1; distance <= known; ++distance) {
      const int place = next - distance + (next < distance ? s.window : 0);
      const float* v = &l.values[start + static_cast<size_t>(place) * width];
      for (int i = 0; i < width; ++i) answer[i] += scores[distance] * v[i];
    }
    for (int i = 0; i < width; ++i) answer[i] /= sum;
    std::copy_n(key.data(), width, &l.keys[start + static_cast<size_t>(next) * width]);
    std::copy_n(value, width, &l.values[start + static_cast<size_t>(next) * width]);
  }
}

// The int8 products of a step and nothing else: what a step cannot take less than.
void Network::products(float* logits) {
  item.set(x.data(), s.width);
  item.values.resize(std::max({s.width, s.recalled() + s.local(), s.hidden}) + 3, native::kZero);
  for (Layer& l : layers) {
    l.mix_in.run(item, mixed.data());
    l.mix_out.run(item, u.data());
    l.feed_in.run(item, wide.data());
    l.feed_out.run(item, u.data());
  }
  head.run(item, wide.data());
  std::copy_n(wide.data(), s.vocabulary, logits);
}

// Write the state in the contract's order and layouts: S (H, K, V), conv (P, 3), Kc and Vc
// (A, W, d), oldest first, of each layer.
void Network::write_state(float* out) const {
  for (const Layer& l : layers) {
    out = std::copy(l.memory.begin(), l.memory.end(), out);
    for (int c = 0; c < s.channels(); ++c)
      for (int tap = 0; tap < kTaps - 1; ++tap) *out++ = l.past[tap * s.channels() + c];
    for (const vector<float>* ring : {&l.keys, &l.values})
      for (int head = 0; head < s.attention_heads; ++head)
        for (int i = 0; i < s.window; ++i) {
          const size_t place = static_cast<size_t>(head) * s.window + (seen + i) % s.window;
          out = std::copy_n(ring->begin() + place * s.attention_width, s.attention_width, out);
        }
  }
}

}  // namespace

extern "C" {

// A network from its flat file, or null. Free it with native_close.
void* native_open(const char* path) {
  Network* network = new Network;
  if (network->load(path)) return network;
  delete network;
  return nullptr;
}

void native_close(void* network) { delete static_cast<Network*>(network); }

void native_reset(void* network) { static_cast<Network*>(network)->reset(); }

// One step; 0, or 1 where the token is outside the vocabulary and nothing has been done.
int native_step(void* network, int64_t token, float* logits) {
  Network* n = static_cast<Network*>(network);
  if (token < 0 || token >= n->s.vocabulary) return 1;
  n->step(token, logits);
  return 0;
}

void native_products(void* network, float* logits) {
  static_cast<Network*>(network)->products(logits);
}

void native_state(void* network, float* out) { static_cast<Network*>(network)->write_state(out); }

}  // extern "C"
