// The operations without weights that carry state from timestep to timestep.
#include <algorithm>

#include "layouts/fire.h"
#include "network/ops.h"
#include "network/positions.h"

namespace spiketicket {
namespace {

// The currents of the neurons of one position: `x` at the first timestep, `step` floats from one timestep to the next.
struct Currents {
  const float* x;
  size_t step;  // 0: the same at every timestep
};

Currents currents_of(const Context& context, const Value& in, int image, int position, Scratch& scratch) {
  if (!in.spikes) return {context.reals(in, image) + size_t(position) * in.stride(), in.timed ? in.plane() : 0};
  const size_t width = padded(in.channels);
  float* sums = scratch.current.data();
  std::fill(sums, sums + context.timesteps * width, 0.0f);
  for (int t = 0; t < context.timesteps; ++t) add_position(context, in, image, t, position, sums + t * width);
  return {sums, width};
}

void reserve_currents(const Context& context, const Value& in) {
  if (!in.spikes) return;
  for (Scratch& scratch : context.workspace.scratch)
    scratch.current.reserve(size_t(context.timesteps) * padded(in.channels));
}

class Neurons : public Operation {
 public:
  Neurons(const Value& v, int input, const LifParameters& lif)
      : input_(input), positions_(v.positions()), channels_(v.channels), lif_(lif) {}
  int tasks(const Context& context, int) const override { return position_tasks(context, positions_); }
  double work() const override { return double(positions_) * channels_ / 8; }
  size_t state() const override { return size_t(positions_) * words_of(channels_) * kWord; }

  void reserve(const Context& context) const override {
    reserve_currents(context, context.values[input_]);
    for (Scratch& scratch : context.workspace.scratch) scratch.fired.reserve(context.timesteps);
  }

  void run(const Context& context, int, int task, Scratch& scratch) const override {
    const Value& out = context.values[output];
    const int width = padded(channels_);
    for_positions(context, positions_, task, [&](int image, int position) {
      const auto [x, step] = currents_of(context, context.values[input_], image, position, scratch);
      const State state = state_of(context, index, out, image, position);
      for (int lane = 0; lane < width; lane += kWord)
        fire(context, lif_, x + lane, step, std::min((width - lane) / kLanes, kWord / kLanes), out, image, position,
             lane / kWord, state, scratch);
    });
  }

 private:
  int input_, positions_, channels_;
  LifParameters lif_;
};

// Leaky integrators: potentials that never fire.
class Integrators : public Operation {
 public:
  Integrators(const Value& v, int input, const Leak& leak)
      : input_(input), positions_(v.positions()), channels_(v.channels), leak_(leak) {}
  int tasks(const Context& context, int) const override { return position_tasks(context, positions_); }
  double work() const override { return double(positions_) * channels_ / 8; }
  size_t state() const override { return size_t(positions_) * channels_; }

  void reserve(const Context& context) const override {
    reserve_currents(context, context.values[input_]);
    for (Scratch& scratch : context.workspace.scratch) scratch.potential.reserve(channels_);
  }

  void run(const Context& context, int, int task, Scratch& scratch) const override {
    const Value& out = context.values[output];
    for_positions(context, positions_, task, [&](int image, int position) {
      auto [x, step] = currents_of(context, context.values[input_], image, position, scratch);
      float* __restrict v = potentials(context, image, position, scratch);
      for (int t = 0; t < context.timesteps; ++t, x += step) {
        float* __restrict to = context.reals(out, image, t) + size_t(position) * out.stride();
        for (int c = 0; c < channels_; ++c) to[c] = v[c] = v[c] * leak_.keep + x[c] * leak_.gain;
      }
    });
  }

 private:
  // Returns the potentials after the previous timestep, or potentials at rest.
  float* potentials(const Context& context, int image, int position, Scratch& scratch) const {
    if (context.stateful)
      return context.workspace.potentials[index].data() + (size_t(image) * positions_ + position) * channels_;
    std::fill_n(scratch.potential.data(), channels_, 0.0f);
    return scratch.potential.data();
  }

  int input_, positions_, channels_;
  Leak leak_;
};

// Expands periodic spikes into the spikes of every timestep.
class Unroll : public Operation {
 public:
  Unroll(const Value& v, int input) : input_(input), work_(double(v.plane()) / 4) {}
  int tasks(const Context& context, int) const override { return context.images; }
  double work() const override { return work_; }

  void run(const Context& context, int, int task, Scratch&) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    std::memset(context.spikes(out, task), 0, context.timesteps * out.plane() * sizeof(uint64_t));
    for (int period = 1; period <= context.before + context.timesteps; ++period) {
      const uint64_t* __restrict from = context.spikes(in, task, period - 1);
      const int skipped = context.before % period;  // timesteps since the last multiple
      for (int t = period - 1 - skipped; t < context.timesteps; t += period) {
        uint64_t* __restrict to = context.spikes(out, task, t);
        for (size_t i = 0; i < in.plane(); ++i) to[i] |= from[i];
      }
    }
  }

 private:
  int input_;
  double work_;
};

}  // namespace

std::unique_ptr<Operation> make_neurons(const std::vector<Value>& values, int input, const LifParameters& lif) {
  return std::make_unique<Neurons>(values[input], input, lif);
}

std::unique_ptr<Operation> make_integrators(const std::vector<Value>& values, int input, const Leak& leak) {
  return std::make_unique<Integrators>(values[input], input, leak);
}

std::unique_ptr<Operation> make_unroll(const std::vector<Value>& values, int input) {
  return std::make_unique<Unroll>(values[input], input);
}

}  // namespace spiketicket
