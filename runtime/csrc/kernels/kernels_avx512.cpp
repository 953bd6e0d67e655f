// AVX-512: 16 channels per vector; a 16-entry table fits one register, and vpermps looks up 16 positions at once.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace {

constexpr const char* kIsa = "avx512";
constexpr int kWidth = 16;
constexpr int kTableRegisters = 25;

typedef float Vector __attribute__((vector_size(64)));
typedef float Unaligned __attribute__((vector_size(64), aligned(4), may_alias));
using Table = __m512;

inline unsigned fires(Vector h, Vector level) { return _mm512_cmp_ps_mask(h, level, _CMP_GE_OQ); }
inline Vector add_where(Vector sum, unsigned bits, Vector addend) {
  return _mm512_mask_add_ps(sum, __mmask16(bits), sum, addend);
}

inline uint32_t expand_word(uint64_t word, uint16_t base, uint16_t* events) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  uint32_t total = 0;
  for (int part = 0; part < 4; ++part, word >>= 16) {
    const __mmask16 bits = __mmask16(word);
    const __m512i numbers = _mm512_add_epi32(lanes, _mm512_set1_epi32(base + 16 * part));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(events + total),
                        _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(bits, numbers)));
    total += unsigned(__builtin_popcount(bits));
  }
  return total;
}

inline Table make_table(const float weight[4]) {
  Table table = _mm512_maskz_mov_ps(0xAAAA, _mm512_set1_ps(weight[0]));
  table = _mm512_mask_add_ps(table, 0xCCCC, table, _mm512_set1_ps(weight[1]));
  table = _mm512_mask_add_ps(table, 0xF0F0, table, _mm512_set1_ps(weight[2]));
  return _mm512_mask_add_ps(table, 0xFF00, table, _mm512_set1_ps(weight[3]));
}

inline Vector look_up(Table table, const uint8_t* bytes) {
  const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  return _mm512_permutexvar_ps(index, table);
}

}  // namespace

#include "kernels/kernels.inl"

namespace spiketicket {
const Kernels& avx512_kernels() { return kKernels; }
}  // namespace spiketicket
