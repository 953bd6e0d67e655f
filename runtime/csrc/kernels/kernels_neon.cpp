// NEON (AArch64): 4 channels per vector; a 16-entry table is the 64 bytes that one tbl reads.
#include <arm_neon.h>

#include "kernels/kernels.h"

namespace {

constexpr const char* kIsa = "neon";
constexpr int kWidth = 4;
constexpr int kTableRegisters = 20;

typedef float Vector __attribute__((vector_size(16)));
typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));
using Table = uint8x16x4_t;

inline uint32x4_t lane_bits() { return uint32x4_t{1, 2, 4, 8}; }

inline unsigned fires(Vector h, Vector level) {
  return vaddvq_u32(vandq_u32(vcgeq_f32(float32x4_t(h), float32x4_t(level)), lane_bits()));
}

inline Vector add_where(Vector sum, unsigned bits, Vector addend) {
  const uint32x4_t set = vtstq_u32(vdupq_n_u32(bits), lane_bits());
  return sum + Vector(vandq_u32(set, uint32x4_t(addend)));
}

inline uint32_t expand_word(uint64_t word, uint16_t base, uint16_t* events) {
  uint32_t total = 0;
  for (; word != 0; word &= word - 1) events[total++] = uint16_t(base + __builtin_ctzll(word));
  return total;
}

inline Table make_table(const float weight[4]) {
  const Vector low = {0.0f, weight[0], weight[1], weight[0] + weight[1]};
  const Vector third = low + weight[2];
  return {{uint8x16_t(low), uint8x16_t(third), uint8x16_t(low + weight[3]), uint8x16_t(third + weight[3])}};
}

inline Vector look_up(const Table& table, const uint8_t* bytes) {
  const uint8x16_t four = {bytes[0], bytes[0], bytes[0], bytes[0], bytes[1], bytes[1], bytes[1], bytes[1],
                           bytes[2], bytes[2], bytes[2], bytes[2], bytes[3], bytes[3], bytes[3], bytes[3]};
  const uint8x16_t within = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
  return Vector(vqtbl4q_u8(table, vorrq_u8(vshlq_n_u8(four, 2), within)));
}

}  // namespace

#include "kernels/kernels.inl"

namespace spiketicket {
const Kernels& neon_kernels() { return kKernels; }
}  // namespace spiketicket
