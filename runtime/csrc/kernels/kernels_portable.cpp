// Plain C++ with the compiler's vectors of 4 floats, which works on every processor.
#include "kernels/kernels.h"

namespace {

constexpr const char* kIsa = "portable";
constexpr int kWidth = 4;
constexpr int kTableRegisters = 10;

typedef float Vector __attribute__((vector_size(16)));
typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));

#include "kernels/kernels_plain.inl"

}  // namespace

#include "kernels/kernels.inl"

namespace spiketicket {
const Kernels& portable_kernels() { return kKernels; }
}  // namespace spiketicket
