// A layer with weights, and the forms in which it can be computed.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "forms/weights.h"
#include "network/value.h"

namespace spiketicket {

// The sum of one or more convolutions, of spikes added as they are (residuals) and a bias, with or without
// neurons behind it.
struct Layer {
  const std::vector<Value>& values;
  std::vector<Source> sources;
  std::vector<int> residuals;
  int outputs, height, width;
  std::vector<float> bias;  // padded to whole words
  std::optional<LifParameters> lif;
  bool int16 = false;  // weights may be rounded to whole numbers
  int output = 0, index = 0;  // value and operation

  const Value& in(size_t s) const { return values[sources[s].value]; }
  bool real() const { return !in(0).spikes; }
  bool periodic() const { return in(0).periodic; }
  int positions() const { return height * width; }

  // How many planes of the input one run reads, and which the i-th is: all of them, or, of periodic spikes one timestep
  // after the other, those whose period divides the timestep.
  int planes(const Context& context) const;
  int plane(const Context& context, int i) const;
};

// The weights in the shape that one kernel wants, and how that kernel runs over a layer.
class Form {
 public:
  virtual ~Form() = default;
  virtual int phases() const { return 2; }
  virtual int tasks(const Context& context, int phase) const = 0;
  virtual void run(const Context& context, int phase, int task, Scratch& scratch) const = 0;
  virtual void reserve(const Context& context) const = 0;
  virtual size_t state() const = 0;  // potentials per image
  virtual size_t bytes() const = 0;  // of weights
};

// Channels side by side: lists of weight rows to add, `tile` positions at a time (row_form.cpp).
std::unique_ptr<Form> make_row_form(const Layer& layer, Storage storage, int tile);

// Positions side by side: per weight, or per table of 4 (plane_form.cpp).
std::unique_ptr<Form> make_mask_form(const Layer& layer);
std::unique_ptr<Form> make_table_form(const Layer& layer);

// Of a layer that reads periodic spikes: out[t] = bias + the sums of the planes whose period divides t; rows of `width`,
// the bias as well. Plane i has period i + 1 or, in a stateful run, any: all of them belong to the one timestep.
void sum_periods(const Context& context, const float* planes, int count, size_t width, const float* bias, float* out);

}  // namespace spiketicket
