// The small loops that layer.cpp is made of: an int8 product for one item, norms, silu and the
// memory's update. AVX2 where the compiler has it, plain C++ where not.
//
// Loops that the compiler turns into AVX2 by itself are left plain. Intrinsics stand where it may
// not: float sums and maxima (it must keep their order) and the int8 product.
//
// Shape letters: K inputs and N outputs of a product; K/V key/value width of a memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define NATIVE_AVX2 1
#endif

namespace native {

// e^x by a polynomial (Cephes' expf, error about 1e-7 relative). No branch and no library call,
// so that the compiler vectorizes every loop around it.
inline float exp_fast(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves no room for a fraction
  const float n = (x * 1.44269504f + round) - round;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return y * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_fast(-x)); }

#ifdef NATIVE_AVX2
inline float sum8(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#endif

inline float dot(const float* a, const float* b, int n) {
  float sum = 0.0f;
  int i = 0;
#ifdef NATIVE_AVX2
  __m256 s0 = _mm256_setzero_ps(), s1 = s0;
  for (; i + 16 <= n; i += 16) {
    s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
    s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
  }
  sum = sum8(_mm256_add_ps(s0, s1));
#endif
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// out = weight x / sqrt(mean(x^2) + eps); out may be x.
inline void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
  const float factor = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

inline float peak_of(const float* x, int n) {
  float peak = 0.0f;
  int i = 0;
#ifdef NATIVE_AVX2
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 most = _mm256_setzero_ps();
  for (; i + 8 <= n; i += 8)
    most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
  float lane[8];
  _mm256_storeu_ps(lane, most);
  for (float value : lane) peak = std::max(peak, value);
#endif
  for (; i < n; ++i) peak = std::max(peak, std::fabs(x[i]));
  return peak;
}

constexpr float kUnit = 1.0f / 127.0f;  // an item is divided by its peak, then by this
constexpr int kZero = 128;              // zero point of a rounded item: fast kernels read u8

// One item, rounded to 8 bits with a scale of its own, as the recipe int8-rows does it: divide by
// the peak, divide by 1/127, round half to even, add 128. The same operations in the same order
// give the same numbers as the ONNX graph.
struct RoundedItem {
  std::vector<uint8_t> values;  // K, and up to three more that meet weights of zero
  float peak = 0.0f;

  void set(const float* x, int n) {
    values.resize(static_cast<size_t>(n + 3) / 4 * 4, kZero);
    peak = std::max(peak_of(x, n), 1e-30f);
    int i = 0;
#ifdef NATIVE_AVX2
    const __m256 by = _mm256_set1_ps(peak), unit = _mm256_set1_ps(kUnit);
    for (; i + 8 <= n; i += 8) {
      const __m256 even = _mm256_div_ps(_mm256_div_ps(_mm256_loadu_ps(x + i), by), unit);
      const __m256i whole =
          _mm256_add_epi32(_mm256_cvtps_epi32(even), _mm256_set1_epi32(kZero));
      const __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(whole),
                                            _mm256_extracti128_si256(whole, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(values.data() + i),
                       _mm_packus_epi16(half, half));
    }
#endif
    for (; i < n; ++i)
      values[i] = static_cast<uint8_t>(std::lrint(x[i] / peak / kUnit) + kZero);
  }
};

// An int8 weight (K, N) with a scale per column, packed once for single items.
//
// Panels of 32 columns; within a panel, groups of 4 inputs, each 128 bytes that are read once and
// in order: a single step is bound by reading weights. vpmaddubsw adds two products of 8 x 7 bits
// in 16 bits, which they just fit (2 * 255 * 64 = 32640), and vpmaddwd adds the pairs in 32 bits.
struct Product {
  static constexpr int kPanel = 32;
  int inputs = 0, outputs = 0, groups = 0, panels = 0;
  std::vector<int8_t> packed;   // (panels, groups, 32 columns, 4 inputs)
  std::vector<int32_t> offset;  // -128 * the column's sum: what the zero point adds too much
  std::vector<float> scale;     // the column's scale times 1/127

  void pack(const int8_t* weight, const float* scales, int k, int n) {
    inputs = k, outputs = n, groups = (k + 3) / 4, panels = (n + kPanel - 1) / kPanel;
    packed.assign(static_cast<size_t>(panels) * groups * kPanel * 4, 0);
    offset.assign(static_cast<size_t>(panels) * kPanel, 0);
    scale.assign(static_cast<size_t>(panels) * kPanel, 0.0f);
    for (int column = 0; column < n; ++column) {
      int8_t* panel = packed.data() + static_cast<size_t>(column / kPanel) * groups * kPanel * 4;
      for (int i = 0; i < k; ++i) {
        const int8_t value = weight[static_cast<size_t>(i) * n + column];
        panel[(i / 4 * kPanel + column % kPanel) * 4 + i % 4] = value;
        offset[column] -= kZero * value;
      }
      scale[column] = scales[column] * kUnit;
    }
  }

  // out has room for whole panels.
  void run(const RoundedItem& item, float* out) const {
    for (int panel = 0; panel < panels; ++panel) {
      const int8_t* weight = packed.data() + static_cast<size_t>(panel) * groups * kPanel * 4;
      const int first = panel * kPanel;
      int32_t sums[kPanel];
      std::copy_n(offset.data() + first, kPanel, sums);
      add(item.values.data(), weight, sums);
      for (int c = 0; c < kPanel; ++c)
        out[first + c] = static_cast<float>(sums[c]) * scale[first + c] * item.peak;
    }
  }

 private:
  void add(const uint8_t* x, const int8_t* weight, int32_t* sums) const {
#ifdef NATIVE_AVX2
    __m256i* target = reinterpret_cast<__m256i*>(sums);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[4];
    for (int j = 0; j < 4; ++j) sum[j] = _mm256_loadu_si256(target + j);
    for (int g = 0; g < groups; ++g, weight += kPanel * 4) {
      int32_t four;
      std::memcpy(&four, x + 4 * g, sizeof four);
      const __m256i inputs4 = _mm256_set1_epi32(four);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight) + j);
        const __m256i pairs = _mm256_maddubs_epi16(inputs4, w);
        sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(pairs, ones));
      }
    }
    for (int j = 0; j < 4; ++j) _mm256_storeu_si256(target + j, sum[j]);
#else
    for (int g = 0; g < groups; ++g, weight += kPanel * 4)
      for (int c = 0; c < kPanel; ++c)
        for (int i = 0; i < 4; ++i) sums[c] += int32_t{x[4 * g + i]} * weight[4 * c + i];
#endif
  }
};

#ifdef NATIVE_AVX2
// `delta_rule` for 8 * Lanes columns of the memory, which are independent of all others. What is
// recalled and what is answered stay in registers while the rows pass.
template <int Lanes>
inline void delta_columns(float* S, int stride, int keys, const float* q, const float* k,
                          const float* v, float decay, float beta, float* out) {
  const __m256 fade = _mm256_set1_ps(decay);
  __m256 recalled[Lanes], answer[Lanes];
  for (int j = 0; j < Lanes; ++j) recalled[j] = answer[j] = _mm256_setzero_ps();
  for (int i = 0; i < keys; ++i) {
    const __m256 key = _mm256_set1_ps(k[i]);
#pragma GCC unroll 8
    for (int j = 0; j < Lanes; ++j) {
      float* cell = S + static_cast<size_t>(i) * stride + 8 * j;
      const __m256 faded = _mm256_mul_ps(_mm256_loadu_ps(cell), fade);
      _mm256_storeu_ps(cell, faded);
      recalled[j] = _mm256_fmadd_ps(faded, key, recalled[j]);
    }
  }
  for (int j = 0; j < Lanes; ++j)  // from here on: the change
    recalled[j] = _mm256_mul_ps(_mm256_set1_ps(beta),
                                _mm256_sub_ps(_mm256_loadu_ps(v + 8 * j), recalled[j]));
  for (int i = 0; i < keys; ++i) {
    const __m256 key = _mm256_set1_ps(k[i]), query = _mm256_set1_ps(q[i]);
#pragma GCC unroll 8
    for (int j = 0; j < Lanes; ++j) {
      float* cell = S + static_cast<size_t>(i) * stride + 8 * j;
      const __m256 fresh = _mm256_fmadd_ps(recalled[j], key, _mm256_loadu_ps(cell));
      _mm256_storeu_ps(cell, fresh);
      answer[j] = _mm256_fmadd_ps(fresh, query, answer[j]);
    }
  }
  for (int j = 0; j < Lanes; ++j) _mm256_storeu_ps(out + 8 * j, answer[j]);
}
#endif

// The short causal convolution with silu for one item x (P), and its past (3, P) moved on. Without
// __restrict the compiler would have to fear that writing the past changes x or the taps.
inline void convolve(const float* __restrict x, float* __restrict past,
                     const float* __restrict taps, int n, float* __restrict out) {
  float *__restrict oldest = past, *__restrict middle = past + n, *__restrict last = past + 2 * n;
  for (int i = 0; i < n; ++i) {
    const float sum = oldest[i] * taps[i] + middle[i] * taps[n + i] + last[i] * taps[2 * n + i] +
                      x[i] * taps[3 * n + i];
    out[i] = sum * sigmoid(sum);
    oldest[i] = middle[i];
    middle[i] = last[i];
    last[i] = x[i];
  }
}

// The gated delta rule for one item and one memory S (K, V):
//   S = decay S;  change = beta (v - S^T k);  S = S + k change^T;  out = S^T q
inline void delta_rule(float* S, int keys, int values, const float* q, const float* k,
                       const float* v, float decay, float beta, float* out) {
  int column = 0;
#ifdef NATIVE_AVX2
  for (; column + 32 <= values; column += 32)
    delta_columns<4>(S + column, values, keys, q, k, v + column, decay, beta, out + column);
  for (; column + 16 <= values; column += 16)
    delta_columns<2>(S + column, values, keys, q, k, v + column, decay, beta, out + column);
#endif
  for (; column < values; ++column) {
    float recalled = 0.0f, answer = 0.0f;
    for (int i = 0; i < keys; ++i) recalled += (S[i * values + column] *= decay) * k[i];
    const float change = beta * (v[column] - recalled);
    for (int i = 0; i < keys; ++i)
      answer += (S[i * values + column] += k[i] * change) * q[i];
    out[column] = answer;
  }
}

}  // namespace native
