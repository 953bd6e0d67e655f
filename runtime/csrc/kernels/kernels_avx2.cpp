// AVX2: 8 channels per vector; a 16-entry table is two registers of 8 entries.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace {

constexpr const char* kIsa = "avx2";
constexpr int kWidth = 8;
constexpr int kTableRegisters = 10;

typedef float Vector __attribute__((vector_size(32)));
typedef float Unaligned __attribute__((vector_size(32), aligned(4), may_alias));
struct Table {
  __m256 low, high;
};

inline unsigned fires(Vector h, Vector level) {
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(h, level, _CMP_GE_OQ)));
}

// Vectors with all ones in the lanes whose bit is set. Loading one is faster than computing it.
struct LaneMasks {
  alignas(32) uint32_t lane[256][8];
  constexpr LaneMasks() : lane() {
    for (int bits = 0; bits < 256; ++bits)
      for (int i = 0; i < 8; ++i) lane[bits][i] = (bits >> i & 1) != 0 ? 0xFFFFFFFF : 0;
  }
};
constexpr LaneMasks kLaneMasks;

inline Vector where(unsigned bits, Vector value) {
  const __m256i set = _mm256_load_si256(reinterpret_cast<const __m256i*>(kLaneMasks.lane[bits]));
  return _mm256_and_ps(_mm256_castsi256_ps(set), value);
}

inline Vector add_where(Vector sum, unsigned bits, Vector addend) { return sum + where(bits, addend); }

inline uint32_t expand_word(uint64_t word, uint16_t base, uint16_t* events) {
  uint32_t total = 0;
  for (; word != 0; word &= word - 1) events[total++] = uint16_t(base + __builtin_ctzll(word));
  return total;
}

inline Table make_table(const float weight[4]) {
  __m256 low = where(0xAA, _mm256_set1_ps(weight[0]));
  low = _mm256_add_ps(low, where(0xCC, _mm256_set1_ps(weight[1])));
  low = _mm256_add_ps(low, where(0xF0, _mm256_set1_ps(weight[2])));
  return {low, _mm256_add_ps(low, _mm256_set1_ps(weight[3]))};
}

inline Vector look_up(const Table& table, const uint8_t* bytes) {
  const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 becomes the sign
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index), _mm256_permutevar8x32_ps(table.high, index),
                          upper);
}

}  // namespace

#include "kernels/kernels.inl"

namespace spiketicket {
const Kernels& avx2_kernels() { return kKernels; }
}  // namespace spiketicket
