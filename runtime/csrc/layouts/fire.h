// Runs neurons on the currents of one thread and packs their spikes into words.
#pragma once
#include <algorithm>

#include "network/value.h"

namespace spiketicket {

// What neurons keep between the calls of a stateful run.
struct State {
  float* potentials;  // [word][64]; nullptr if every call begins at rest
  uint64_t* seen;     // [word], the neurons that have fired; only for periodic output
};

inline State state_of(const Context& context, int index, const Value& out, int image, int position) {
  if (!context.stateful) return {nullptr, nullptr};
  const size_t word = (size_t(image) * out.positions() + position) * out.stride();
  return {context.workspace.potentials[index].data() + word * kWord, context.workspace.seen[index].data() + word};
}

// Runs the neurons of one position and one word of channels over all timesteps, and writes their spikes to `out`. The
// rows of `current` are `current_step` floats apart; with a step of 0 every timestep has the same current.
inline void fire(const Context& context, const LifParameters& lif, const float* current, size_t current_step,
                 int vectors, const Value& out, int image, int position, int word, const State& state,
                 Scratch& scratch) {
  const int timesteps = context.timesteps;
  const int rest = out.channels - word * kWord;
  const uint64_t lanes = rest >= kWord ? ~uint64_t(0) : (uint64_t(1) << rest) - 1;
  float* u = state.potentials != nullptr ? state.potentials + size_t(word) * kWord : nullptr;
  const size_t at = size_t(position) * out.stride() + word;
  if (!out.periodic) {
    uint64_t* spikes = context.spikes(out, image) + at;
    context.kernels.lif(lif, current, current_step, timesteps, vectors, u, spikes, out.plane());
    if (rest < kWord)
      for (int t = 0; t < timesteps; ++t) spikes[t * out.plane()] &= lanes;
    return;
  }
  uint64_t* fired = scratch.fired.reserve(timesteps);
  context.kernels.lif(lif, current, current_step, timesteps, vectors, u, fired, 1);
  uint64_t seen = state.seen != nullptr && context.before > 0 ? state.seen[word] : 0;
  uint64_t* plane = context.spikes(out, image, context.before) + at;
  for (int t = 0; t < timesteps; ++t, plane += out.plane()) {
    *plane = fired[t] & lanes & ~seen;
    seen |= fired[t];
  }
  if (state.seen != nullptr) state.seen[word] = seen;
}

}  // namespace spiketicket
