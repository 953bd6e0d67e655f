// The inner loops, compiled once per instruction set from kernels.inl and chosen at run time.
//
// Every instruction set adds in the same order and rounds the same way (no fused multiply-add), so
// results are bit-identical on all of them. Kernels work on flat planes: position p of an output
// reads its inputs at p + offset, so that a kernel tap is a pointer offset (layout.h).
#pragma once
#include <cstddef>
#include <cstdint>

namespace spiketicket {

// Weights of one kernel tap for a group of 4 input channels, whose spikes share one byte per position.
struct SpikeTap {
  int32_t offset;  // of the byte read for position 0
  float weight[4];
};

// One nonzero weight of a layer with real-valued input.
struct RealTap {
  int32_t offset;  // of the float read for position 0
  float weight;
};

// u is the potential above rest: h = keep u + gain x; fired if h >= level; then u = 0 or, with a
// soft reset, h - level.
struct LifParameters {
  float keep, gain, level;
  bool soft;
};

// Kernels read and write whole tiles: buffers extend this many elements past the last position.
constexpr int kTile = 64;

struct Kernels {
  const char* isa;

  // current[t][p] = bias + sum over taps of the weights whose bit is set in spikes[t][p + offset].
  // `step`: bytes between timesteps of spikes; `current_step`: floats between timesteps of current.
  void (*accumulate_spikes)(const SpikeTap* taps, size_t count, float bias, const uint8_t* spikes, size_t step,
                            int timesteps, int positions, float* current, size_t current_step);

  // current[p] = bias + sum over taps of weight * x[p + offset].
  void (*accumulate_real)(const RealTap* taps, size_t count, float bias, const float* x, int positions,
                          float* current);

  // Runs the neurons of one plane over all timesteps: fired[t][p] is 0 or 1; u is read and updated.
  // `current_step` 0 repeats one current.
  void (*lif)(const LifParameters& lif, const float* current, size_t current_step, int timesteps, int positions,
              float* u, uint8_t* fired, size_t fired_step);
};

// The best instruction set that this CPU and this build have, or the one named by SPIKETICKET_ISA.
// Throws std::invalid_argument where that one is unknown or absent.
const Kernels& select_kernels();

const Kernels& portable_kernels();
#ifdef SPIKETICKET_X86
const Kernels& avx512_kernels();
#endif

}  // namespace spiketicket
