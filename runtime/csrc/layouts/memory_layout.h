// A layer with weights, and the memory layouts in which it can be computed.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "layouts/weights.h"
#include "network/value.h"

namespace spiketicket {

// The sum of one or more convolutions, of spikes that are added unweighted (residuals) and of a bias, optionally
// followed by neurons.
struct Layer {
  const std::vector<Value>& values;
  std::vector<Source> sources;
  std::vector<int> residuals;
  int outputs, height, width;
  std::vector<float> bias;  // padded to whole words
  std::optional<LifParameters> lif;
  bool int16 = false;  // whether weights may be rounded to integers
  int output = 0, index = 0;  // of the value that it computes, and of its operation

  const Value& in(size_t s) const { return values[sources[s].value]; }
  bool real() const { return !in(0).spikes; }
  bool periodic() const { return in(0).periodic; }
  int positions() const { return height * width; }

  // Return how many planes of the input a run reads, and the index of the i-th of them. A run of all timesteps reads
  // every plane; a run of one timestep reads, of periodic spikes, the planes whose period divides the timestep.
  int planes(const Context& context) const;
  int plane(const Context& context, int i) const;
};

// The weights in the memory layout that one kernel reads, and how that kernel runs over a layer. Like an Operation, it
// runs in phases, whose tasks may run at the same time.
class MemoryLayout {
 public:
  virtual ~MemoryLayout() = default;
  virtual int phases() const { return 2; }
  virtual int tasks(const Context& context, int phase) const = 0;
  virtual void run(const Context& context, int phase, int task, Scratch& scratch) const = 0;
  virtual void reserve(const Context& context) const = 0;
  virtual size_t state() const = 0;  // number of potentials per image
  virtual size_t bytes() const = 0;  // size of the weights
};

// Vectors of channels: lists the weight rows to add for `tile` positions at a time (row_layout.cpp).
std::unique_ptr<MemoryLayout> make_row_layout(const Layer& layer, Storage storage, int tile);

// Vectors of positions: adds weight by weight, or looks up the sums of 4 weights (plane_layout.cpp).
std::unique_ptr<MemoryLayout> make_mask_layout(const Layer& layer);
std::unique_ptr<MemoryLayout> make_table_layout(const Layer& layer);

// Computes the currents of a layer that reads periodic spikes: out[t] = bias + the sum of planes[i] over the planes
// whose period divides timestep t, counted from 1. `bias`, planes and currents are rows of `width` floats. Plane i has
// period i + 1, except in a stateful run, which passes only the planes that belong to its one timestep.
void sum_periods(const Context& context, const float* planes, int count, size_t width, const float* bias, float* out);

}  // namespace spiketicket
