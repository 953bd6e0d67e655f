// The inner loops, compiled once per instruction set from kernels.inl and chosen at run time.
//
// Every instruction set adds in the same order and rounds the same way (no fused multiply-add), so
// results are bit-identical on all of them. docs/engine.md draws the data layouts.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace spiketicket {

constexpr int kLanes = 16;  // output channels come in multiples of this
constexpr int kWord = 64;   // channels whose spikes share one word, and the widest block of output channels
constexpr int kGroup = 4;   // input channels whose spikes index one table
constexpr int kSlack = 64;  // elements that a kernel may touch past the end of a buffer

// Whole-number weights: the sum of kExact of them fits 16 bits.
constexpr int kLargest = 1023, kExact = 32;
static_assert(kLargest * kExact <= INT16_MAX);

// u is the potential above rest: h = keep u + gain x; fired if h >= level; then u = 0 or, with a
// soft reset, h - drop. Without a leak keep is 1.
struct LifParameters {
  float keep, gain, level, drop;
  bool soft;
};

// Where the events of one position lie: `count` numbers from `first` on.
struct EventSpan {
  uint32_t first, count;
};

// One input position under the kernel: its place in the plane, and the weight row of its channel 0.
struct Tap {
  uint32_t position, row;
};

// Neighbouring input positions under the kernel, first to last. Their events are numbered on from position to position
// as the weight rows are: row is what to add to an event's number (modulo 2^32).
struct Run {
  uint32_t first, last, row;
};

// Weights of one kernel tap for a group of 4 input channels, whose spikes share one byte per position.
struct TableTap {
  int32_t offset;  // of the byte read for position 0
  float weight[kGroup];
};

// One nonzero weight, and the row of masks that says where its input fires.
struct MaskTap {
  uint32_t row;
  float weight;
};

struct Kernels {
  const char* isa;

  // `base` + the numbers of the set bits of words[count], ascending. Returns how many; writes up to kSlack more.
  uint32_t (*expand)(const uint64_t* words, int count, uint16_t base, uint16_t* events);

  // The weight rows that one output position adds up at one timestep: run.row + event for every event
  // under the kernel. Returns the end; writes up to kSlack more.
  uint32_t* (*list_rows)(const Run* runs, size_t count, const EventSpan* spans, const uint16_t* events, uint32_t* rows);

  // current[i] = bias + the sum of the weight rows in rows[ends[i - 1]..ends[i]), for `lists` lists;
  // `vectors` (1 to 4) times kLanes floats each.
  void (*gather)(const uint32_t* rows, const uint32_t* ends, size_t lists, const float* weights, int vectors,
                 const float* bias, float* current);

  // The same for rows of which only the nonzeros are stored: row r has entries starts[r]..starts[r + 1).
  void (*gather_sparse)(const uint32_t* rows, const uint32_t* ends, size_t lists, const uint32_t* starts,
                        const uint16_t* columns, const float* weights, int vectors, const float* bias, float* current);

  // The same for whole-number weights of at most kLargest, rows of 32 * ((vectors + 1) / 2) of them: current = bias +
  // scale times the sum. Sums are exact: 16 bits hold kExact rows, 32 bits hold the rest.
  void (*gather_int16)(const uint32_t* rows, const uint32_t* ends, size_t lists, const int16_t* weights, int vectors,
                       const float* scale, const float* bias, float* current);

  // The current of one output position of a layer with real-valued input: bias + the sum over taps and channels of
  // x[tap.position * stride + c] times the weight row tap.row + c.
  void (*gather_real)(const Tap* taps, size_t count, const float* x, size_t stride, int channels, const float* weights,
                      int vectors, const float* bias, float* current);

  // The same for rows of which only the nonzeros are stored.
  void (*gather_real_sparse)(const Tap* taps, size_t count, const float* x, size_t stride, int channels,
                             const uint32_t* starts, const uint16_t* columns, const float* weights, int vectors,
                             const float* bias, float* current);

  // Adds 1 to current[lane] where bit `lane` of spikes is set.
  void (*add_spikes)(uint64_t spikes, int vectors, float* current);

  // sum[i] = a[i] + b[i] for a count that is a multiple of kLanes.
  void (*add_rows)(const float* a, const float* b, size_t count, float* sum);

  // Runs 16 * vectors neurons over all timesteps: spikes[t * spikes_step] gets their bits; u is read and
  // updated, or nullptr: at rest, and forgotten. `current_step` 0 repeats one current.
  void (*lif)(const LifParameters& lif, const float* current, size_t current_step, int timesteps, int vectors, float* u,
              uint64_t* spikes, size_t spikes_step);

  // Positions instead of channels side by side: current[t][p] = bias + sum over taps of the weights whose bit is
  // set in planes[t][p + offset]. `step`: bytes between timesteps; `current_step`: floats between timesteps.
  void (*accumulate_tables)(const TableTap* taps, size_t count, float bias, const uint8_t* planes, size_t step,
                            int timesteps, int positions, float* current, size_t current_step);

  // The same with one weight after the other: current[t][p] = bias + the weights whose row of masks has p's bit set.
  // masks[row * row_step + t * step + v] holds the bits of 16 positions from 16 v on.
  void (*accumulate_masked)(const MaskTap* taps, size_t count, float bias, const uint16_t* masks, size_t row_step,
                            size_t step, int timesteps, int vectors, float* current, size_t current_step);
};

// The instruction sets that this CPU and this build have, best first.
std::vector<const Kernels*> present_kernels();

// The best instruction set that this CPU and this build have, or the one named by SPIKETICKET_ISA.
// Throws std::invalid_argument where that one is unknown or absent.
const Kernels& select_kernels();

const Kernels& portable_kernels();
#ifdef SPIKETICKET_X86
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif
#ifdef SPIKETICKET_NEON
const Kernels& neon_kernels();
#endif

}  // namespace spiketicket
