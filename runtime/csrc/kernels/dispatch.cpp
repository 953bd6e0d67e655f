#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace spiketicket {

std::vector<const Kernels*> present_kernels() {
  std::vector<const Kernels*> present;
#ifdef SPIKETICKET_X86
  const bool bmi2 = __builtin_cpu_supports("bmi2");
  if (bmi2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    present.push_back(&avx512_kernels());
  if (bmi2 && __builtin_cpu_supports("avx2")) present.push_back(&avx2_kernels());
#endif
#ifdef SPIKETICKET_NEON
  present.push_back(&neon_kernels());
#endif
  present.push_back(&portable_kernels());
  return present;
}

const Kernels& select_kernels() {
  const std::vector<const Kernels*> present = present_kernels();
  const char* wanted = std::getenv("SPIKETICKET_ISA");
  if (wanted == nullptr || *wanted == '\0') return *present.front();
  std::string names;
  for (const Kernels* kernels : present) {
    if (std::string(kernels->isa) == wanted) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->isa);
  }
  throw std::invalid_argument("SPIKETICKET_ISA is '" + std::string(wanted) + "', this CPU and build have: " + names);
}

}  // namespace spiketicket
