/* Measure what this machine can do: reading memory, and float32 and int8 products.

       cc -O3 -march=native -ffp-contract=fast -pthread peak.c -o peak && ./peak THREADS

   Prints JSON: read_gb_s, by the size of the block in MiB; float32_gflop_s; int8_gop_s (0 where
   this program knows no int8 instruction of the machine). Each is the best of several tries. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { BYTES = 64, CHAINS = 16 };
#elif defined(__AVX2__)
enum { BYTES = 32, CHAINS = 12 };
#else
enum { BYTES = 16, CHAINS = 12 };
#endif
typedef float vf __attribute__((vector_size(BYTES)));
typedef uint64_t vu __attribute__((vector_size(BYTES)));

enum { TRIES = 40, MOST_THREADS = 256 };
static const size_t MEBI = 1u << 20, MOVED = 32u << 20; /* bytes that one try reads at least */
static const long PRODUCTS = 4000000;

typedef struct {
  char *block;
  size_t bytes;
  long times;
} job;
static volatile uint64_t sink; /* keeps the compiler from leaving the work out */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *read_block(void *given) {
  job *j = given;
  vu sum[8] = {{0}};
  for (long k = 0; k < j->times; k++) {
    for (size_t i = 0; i + 8 * BYTES <= j->bytes; i += 8 * BYTES)
      for (int c = 0; c < 8; c++) sum[c] ^= *(const vu *)(j->block + i + c * BYTES);
    __asm__ volatile("" ::: "memory");
  }
  for (int c = 1; c < 8; c++) sum[0] ^= sum[c];
  sink = sum[0][0] ^ sum[0][1];
  return NULL;
}

static void *multiply_float32(void *given) {
  job *j = given;
  vf sum[CHAINS], x, y;
  for (int c = 0; c < CHAINS; c++) sum[c] = (vf){0} + c * 1e-3f;
  x = (vf){0} + 0.999f;
  y = (vf){0} + 1e-6f;
  for (long k = 0; k < j->times; k++)
#pragma GCC unroll 16
    for (int c = 0; c < CHAINS; c++) sum[c] = sum[c] * x + y;
  for (int c = 1; c < CHAINS; c++) sum[0] += sum[c];
  sink = (uint64_t)sum[0][0];
  return NULL;
}

/* One step of int8 products into int32 sums, as kernels for this machine do it. */
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
typedef __m512i vi;
#define INT8 1
#define SET(n) _mm512_set1_epi32(n)
#define DOT(s, x, y) _mm512_dpbusd_epi32(s, x, y)
#define FIRST(s) _mm512_cvtsi512_si32(s)
#define HIDE(x) __asm__ volatile("" : "+v"(x))
#elif defined(__AVX2__)
typedef __m256i vi;
#define INT8 1
#define SET(n) _mm256_set1_epi32(n)
#define DOT(s, x, y) \
  _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)))
#define FIRST(s) _mm256_cvtsi256_si32(s)
#define HIDE(x) __asm__ volatile("" : "+x"(x))
#endif

#ifdef INT8
static void *multiply_int8(void *given) {
  job *j = given;
  vi sum[10], x = SET(0x01020304), y = SET(0x01010101);
  for (int c = 0; c < 10; c++) sum[c] = SET(c);
  for (long k = 0; k < j->times; k++)
#pragma GCC unroll 10
    for (int c = 0; c < 10; c++) {
      HIDE(x); /* or the compiler would multiply once for all */
      sum[c] = DOT(sum[c], x, y);
    }
  uint64_t all = 0;
  for (int c = 0; c < 10; c++) all += (uint32_t)FIRST(sum[c]);
  sink = all;
  return NULL;
}
#endif

/* The shortest of several tries in which every thread does one job; seconds. */
static double best(void *(*work)(void *), int threads, char *block, size_t bytes, long times) {
  pthread_t thread[MOST_THREADS];
  job jobs[MOST_THREADS];
  double shortest = 1e9;
  size_t share = bytes / threads / 4096 * 4096;
  for (int t = 0; t < threads; t++) jobs[t] = (job){block + share * t, share, times};
  for (int r = 0; r < TRIES; r++) {
    double start = now();
    for (int t = 1; t < threads; t++) pthread_create(&thread[t], NULL, work, &jobs[t]);
    work(&jobs[0]);
    for (int t = 1; t < threads; t++) pthread_join(thread[t], NULL);
    double spent = now() - start;
    if (spent < shortest) shortest = spent;
  }
  return shortest;
}

int main(int count, char **given) {
  int threads = count > 1 ? atoi(given[1]) : 1;
  if (threads < 1 || threads > MOST_THREADS) return 2;
  const size_t sizes[] = {1, 2, 4, 8, 12, 16, 24, 32, 64, 256};
  const int last = sizeof sizes / sizeof *sizes - 1;
  char *block = aligned_alloc(2 * MEBI, sizes[last] * MEBI);
  if (!block) return 1;
  memset(block, 1, sizes[last] * MEBI);
  printf("{\"threads\": %d, \"read_gb_s\": {", threads);
  for (int i = 0; i <= last; i++) {
    size_t bytes = sizes[i] * MEBI;
    long times = MOVED / bytes ? MOVED / bytes : 1;
    double seconds = best(read_block, threads, block, bytes, times);
    printf("%s\"%zu\": %.2f", i ? ", " : "", sizes[i], bytes * (double)times / seconds / 1e9);
  }
  long rounds = PRODUCTS / CHAINS;
  double seconds = best(multiply_float32, threads, block, 0, rounds);
  double flops = 2.0 * (BYTES / 4) * CHAINS * rounds * threads / seconds;
  printf("}, \"float32_gflop_s\": %.1f", flops / 1e9);
  double ops = 0;
#ifdef INT8
  rounds = PRODUCTS / 10;
  seconds = best(multiply_int8, threads, block, 0, rounds);
  ops = 2.0 * sizeof(vi) * 10 * rounds * threads / seconds;
#endif
  printf(", \"int8_gop_s\": %.1f}\n", ops / 1e9);
  free(block);
  return 0;
}
