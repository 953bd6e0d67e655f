// A monotonic clock.
#pragma once
#include <chrono>

namespace spiketicket {

using Clock = std::chrono::steady_clock;

inline double nanoseconds(Clock::time_point begin) {
  return std::chrono::duration<double, std::nano>(Clock::now() - begin).count();
}

}  // namespace spiketicket
