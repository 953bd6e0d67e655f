// How operations without weights divide the positions of images into tasks.
#pragma once
#include <algorithm>

#include "network/value.h"

namespace spiketicket {

constexpr int kPositionsPerTask = 64;

inline int position_tasks(const Context& context, int positions) {
  return (context.images * positions + kPositionsPerTask - 1) / kPositionsPerTask;
}

// Calls body(image, position) for the positions of one task.
template <class Body>
void for_positions(const Context& context, int positions, int task, const Body& body) {
  const int last = std::min((task + 1) * kPositionsPerTask, context.images * positions);
  for (int p = task * kPositionsPerTask; p < last; ++p) body(p / positions, p % positions);
}

// Adds the channels of one position and plane to `sum`; spikes count as 0 and 1.
inline void add_position(const Context& context, const Value& v, int image, int plane, int position, float* sum) {
  const int width = padded(v.channels);
  if (v.spikes) {
    const uint64_t* words = context.spikes(v, image, plane) + size_t(position) * v.stride();
    for (int lane = 0; lane < width; lane += kWord)
      context.kernels.add_spikes(*words++, std::min((width - lane) / kLanes, kWord / kLanes), sum + lane);
  } else {
    const float* x = context.reals(v, image, plane) + size_t(position) * v.stride();
    for (int c = 0; c < width; ++c) sum[c] += x[c];
  }
}

}  // namespace spiketicket
