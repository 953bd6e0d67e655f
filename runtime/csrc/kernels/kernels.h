// The inner loops, compiled once per instruction set from kernels.inl and chosen at run time.
//
// Every instruction set adds in the same order and rounds the same way (no fused multiply-add), so that results are
// bit-identical on all of them. docs/engine.md describes the memory layouts.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace spiketicket {

constexpr int kLanes = 16;  // output channels come in multiples of this
constexpr int kWord = 64;   // channels whose spikes share one word, and the widest block of output channels
constexpr int kGroup = 4;   // input channels whose spikes index one table
constexpr int kSlack = 64;  // elements that a kernel may touch past the end of a buffer

// The largest integer weight, and how many such weights can be added before a 16-bit sum may overflow.
constexpr int kLargest = 1023, kExact = 32;
static_assert(kLargest * kExact <= INT16_MAX);

// The factors of a LIF neuron. With the potential u above rest and the current x, one timestep computes
// h = keep * u + gain * x; the neuron fires if h >= level; then u becomes 0 or, with a soft reset, h - drop.
// `keep` is 1 for a neuron without a leak.
struct LifParameters {
  float keep, gain, level, drop;
  bool soft;
};

// The place of one position's events in the list of events: `count` numbers beginning at index `first`.
struct EventSpan {
  uint32_t first, count;
};

// One input position under the kernel: its index in the plane, and the weight row of its channel 0.
struct Tap {
  uint32_t position, row;
};

// Neighbouring input positions under the kernel, from `first` to `last`. Event numbers continue from one position to
// the next exactly as weight rows do, so that adding `row` to an event's number (modulo 2^32) gives its weight row.
struct Run {
  uint32_t first, last, row;
};

// The weights of one kernel tap for a group of 4 input channels, whose spikes share one byte per position.
struct TableTap {
  int32_t offset;  // of the byte read for position 0
  float weight[kGroup];
};

// One nonzero weight, and the row of masks that marks the positions at which its input fires.
struct MaskTap {
  uint32_t row;
  float weight;
};

// The kernels of one instruction set. They read and write only the memory that they are given, allocate nothing and do
// not check their arguments. Buffers extend kSlack elements past their contents, where a kernel may read or write.
struct Kernels {
  const char* isa;  // name of the instruction set

  // Lists the spikes of one position as events: writes `base` + the index of every set bit of words[0..count),
  // ascending. Returns how many there are; may write up to kSlack elements more.
  uint32_t (*expand)(const uint64_t* words, int count, uint16_t base, uint16_t* events);

  // Lists the weight rows that one output position adds up at one timestep: run.row + event for every event of the
  // `count` runs, in order. Returns the end of the list; may write up to kSlack elements more.
  uint32_t* (*list_rows)(const Run* runs, size_t count, const EventSpan* spans, const uint16_t* events, uint32_t* rows);

  // Sums dense weight rows: current[i] = bias + the sum of the weight rows in rows[ends[i - 1]..ends[i]), for i in
  // [0, lists), where ends[-1] means 0. A row, the bias and each current are `vectors` (1 to 4) times kLanes floats.
  void (*gather)(const uint32_t* rows, const uint32_t* ends, size_t lists, const float* weights, int vectors,
                 const float* bias, float* current);

  // Does the same as `gather` for sparse weight rows: row r holds weights[j] in column columns[j], for j in
  // [starts[r], starts[r + 1]).
  void (*gather_sparse)(const uint32_t* rows, const uint32_t* ends, size_t lists, const uint32_t* starts,
                        const uint16_t* columns, const float* weights, int vectors, const float* bias, float* current);

  // Does the same as `gather` for integer weights of magnitude kLargest at most, in rows of 32 * ((vectors + 1) / 2):
  // current = bias + scale * sum. The sums are exact: kExact rows are added in 16 bits, and those sums in 32 bits.
  void (*gather_int16)(const uint32_t* rows, const uint32_t* ends, size_t lists, const int16_t* weights, int vectors,
                       const float* scale, const float* bias, float* current);

  // Computes the current of one output position of a layer with real-valued input: current = bias + the sum over the
  // `count` taps and the channels c of x[tap.position * stride + c] times the dense weight row tap.row + c.
  void (*gather_real)(const Tap* taps, size_t count, const float* x, size_t stride, int channels, const float* weights,
                      int vectors, const float* bias, float* current);

  // Does the same as `gather_real` for sparse weight rows, stored as for `gather_sparse`; skips inputs that are 0.
  void (*gather_real_sparse)(const Tap* taps, size_t count, const float* x, size_t stride, int channels,
                             const uint32_t* starts, const uint16_t* columns, const float* weights, int vectors,
                             const float* bias, float* current);

  // Adds 1 to current[lane] for every set bit `lane` of `spikes`, of which vectors * kLanes are read.
  void (*add_spikes)(uint64_t spikes, int vectors, float* current);

  // Adds two arrays: sum[i] = a[i] + b[i] for i in [0, count). `count` is a multiple of kLanes; `sum` may be `a`.
  void (*add_rows)(const float* a, const float* b, size_t count, float* sum);

  // Runs vectors * kLanes (at most kWord) neurons over all timesteps on the currents at current[t * current_step], and
  // writes their spikes as the bits of spikes[t * spikes_step]. With `current_step` 0 every timestep has the same
  // current. `u` holds the potentials, which are updated; if it is nullptr, neurons begin at rest and are not kept.
  void (*lif)(const LifParameters& lif, const float* current, size_t current_step, int timesteps, int vectors, float* u,
              uint64_t* spikes, size_t spikes_step);

  // Computes the currents of one output at many positions by table look-up: current[t][p] = bias + the sum over the
  // taps of those of their four weights whose bit is set in planes[t][p + tap.offset], added in the order of the bits.
  // `step` is the number of bytes, `current_step` the number of floats from one timestep to the next.
  void (*accumulate_tables)(const TableTap* taps, size_t count, float bias, const uint8_t* planes, size_t step,
                            int timesteps, int positions, float* current, size_t current_step);

  // Computes the same currents weight by weight: current[t][p] = bias + the sum of the weights whose mask has the bit
  // of position p set. masks[tap.row * row_step + t * step + v] holds the bits of the positions 16 v to 16 v + 15, for
  // v in [0, vectors).
  void (*accumulate_masked)(const MaskTap* taps, size_t count, float bias, const uint16_t* masks, size_t row_step,
                            size_t step, int timesteps, int vectors, float* current, size_t current_step);
};

// Returns the kernels of all instruction sets that both this CPU and this build support, the fastest first.
std::vector<const Kernels*> present_kernels();

// Returns the kernels of the fastest instruction set, or of the one that the environment variable SPIKETICKET_ISA
// names. Throws std::invalid_argument if that one is unknown, or not supported by this CPU and build.
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
