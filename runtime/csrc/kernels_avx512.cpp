// AVX-512: a 16-entry table fits one register, and vpermps looks up 16 positions at once.
#include <immintrin.h>

#include "kernels.h"

namespace {

constexpr const char* kIsa = "avx512";
constexpr int kLanes = 16;

using Vector = __m512;
using Table = __m512;

inline Vector broadcast(float value) { return _mm512_set1_ps(value); }
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }

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

#include "kernels.inl"

const spiketicket::Kernels& spiketicket::avx512_kernels() { return kKernels; }
