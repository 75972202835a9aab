// An int8 matrix product for chunks on AVX2 without VNNI: C (T, N) = A (T, K) B (K, N), A of u8
// with the zero point 128, B of s8 with 7 bits (-64..64).
//
//   g++ -std=c++17 -O3 -march=native -fno-trapping-math -fPIC -shared
//       examples/native/gemm.cpp -o out/gemm.so
//
// vpmaddubsw multiplies 32 pairs of bytes and adds neighbours in 16 bits, which two products of
// 8 x 7 bits just fit (2 * 255 * 64 = 32640); vpmaddwd by ones adds neighbours in 32 bits. Both
// run on the same two ports, so 32 products cost two multiplying instructions whatever one does:
// that is the limit that gemm_peak measures.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int kColumns = 16;  // of a panel: two registers of 8 sums
constexpr int kRows = 4;      // with 4 rows, 8 of 16 registers hold sums and nothing is spilled
constexpr int kZero = 128;

struct Packed {
  int inputs, outputs;
  std::vector<int8_t> weight;   // (panels, K/4, 16 columns, 4 inputs)
  std::vector<int32_t> offset;  // -128 * the column's sum
  std::vector<float> scale;     // (N)
};

// Sums of Rows rows and one panel. The panel (K * 16 bytes) stays in the first cache while the
// rows of a chunk pass; each group of 4 inputs is 64 bytes of weights and 4 bytes of each row.
template <int Rows>
inline void panel_sums(const uint8_t* a, int inputs, const int8_t* weight, const int32_t* offset,
                       int32_t sums[Rows][kColumns]) {
#if defined(__AVX2__)
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum[Rows][2];
  for (int r = 0; r < Rows; ++r)
    for (int j = 0; j < 2; ++j)
      sum[r][j] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset) + j);
  for (int i = 0; i < inputs; i += 4, weight += kColumns * 4) {
    __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight));
    __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight) + 1);
    // else the compiler reads both again for every row
    __asm__("" : "+x"(w0), "+x"(w1));
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      int32_t four;
      std::memcpy(&four, a + static_cast<size_t>(r) * inputs + i, sizeof four);
      const __m256i x = _mm256_set1_epi32(four);
      sum[r][0] = _mm256_add_epi32(
          sum[r][0], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w0), ones));
      sum[r][1] = _mm256_add_epi32(
          sum[r][1], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w1), ones));
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int j = 0; j < 2; ++j)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[r]) + j, sum[r][j]);
#else
  for (int r = 0; r < Rows; ++r) {
    std::copy_n(offset, kColumns, sums[r]);
    for (int i = 0; i < inputs; ++i)
      for (int c = 0; c < kColumns; ++c)
        sums[r][c] += int32_t{a[static_cast<size_t>(r) * inputs + i]} *
                      weight[(i / 4 * kColumns + c) * 4 + i % 4];
  }
#endif
}

// Store gets (row, first column, 16 sums) of every panel of every row.
template <int Rows, class Store>
inline void rows_of_panel(const Packed& b, int panel, const uint8_t* a, int row, Store store) {
  int32_t sums[Rows][kColumns];
  const int first = panel * kColumns;
  panel_sums<Rows>(a + static_cast<size_t>(row) * b.inputs, b.inputs,
                   b.weight.data() + static_cast<size_t>(first) * b.inputs,
                   b.offset.data() + first, sums);
  for (int r = 0; r < Rows; ++r) store(row + r, first, sums[r]);
}

template <class Store>
void multiply(const Packed& b, const uint8_t* a, int rows, Store store) {
  for (int panel = 0; panel < b.outputs / kColumns; ++panel) {
    int row = 0;
    for (; row + kRows <= rows; row += kRows) rows_of_panel<kRows>(b, panel, a, row, store);
    for (; row < rows; ++row) rows_of_panel<1>(b, panel, a, row, store);
  }
}

}  // namespace

extern "C" {

// Pack B (K, N) and a scale per column once; null where K is not of fours or N not of sixteens.
void* gemm_pack(const int8_t* b, const float* scale, int inputs, int outputs) {
  if (inputs % 4 != 0 || outputs % kColumns != 0) return nullptr;
  Packed* packed = new Packed{inputs, outputs, {}, {}, {scale, scale + outputs}};
  packed->weight.resize(static_cast<size_t>(inputs) * outputs);
  packed->offset.resize(outputs);
  for (int column = 0; column < outputs; ++column) {
    int8_t* panel =
        packed->weight.data() + static_cast<size_t>(column / kColumns) * inputs * kColumns;
    for (int i = 0; i < inputs; ++i) {
      const int8_t value = b[static_cast<size_t>(i) * outputs + column];
      panel[(i / 4 * kColumns + column % kColumns) * 4 + i % 4] = value;
      packed->offset[column] -= kZero * value;
    }
  }
  return packed;
}

void gemm_free(void* packed) { delete static_cast<Packed*>(packed); }

// The exact sums of (A - 128) B.
void gemm_sums(const void* packed, const uint8_t* a, int rows, int32_t* c) {
  const Packed& b = *static_cast<const Packed*>(packed);
  multiply(b, a, rows, [&](int row, int first, const int32_t* sums) {
    std::copy_n(sums, kColumns, c + static_cast<size_t>(row) * b.outputs + first);
  });
}

// The sums as floats, times the scale of A and that of the column.
void gemm_floats(const void* packed, const uint8_t* a, int rows, float a_scale, float* c) {
  const Packed& b = *static_cast<const Packed*>(packed);
  multiply(b, a, rows, [&](int row, int first, const int32_t* sums) {
    float* out = c + static_cast<size_t>(row) * b.outputs + first;
    for (int i = 0; i < kColumns; ++i)
      out[i] = static_cast<float>(sums[i]) * (a_scale * b.scale[first + i]);
  });
}

// How many int8 operations (two a product) `rounds` rounds of this take, all in registers; the
// caller takes the time. Only the two multiplying instructions count: adds and loads have ports of
// their own, so no kernel made of these two can pass this limit. The empty asm gives each
// vpmaddubsw an input that may have changed: else the compiler calculates it once, before the
// loop, and the limit seems far higher.
int64_t gemm_peak(int64_t rounds) {
#if defined(__AVX2__)
  __m256i x = _mm256_set1_epi8(3);
  const __m256i y = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      __asm__ volatile("" : "+x"(x));
      const __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones);
      __asm__ volatile("" : : "x"(sums));
    }
  }
  return rounds * 8 * 64;
#else
  return rounds * 0;
#endif
}

}  // extern "C"
