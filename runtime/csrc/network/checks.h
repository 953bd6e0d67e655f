// Checks of arguments, and the text of their messages.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace spiketicket {

// Throws std::invalid_argument with the message `what` unless the condition is true.
inline void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument(what);
}

inline std::string text(const std::vector<int64_t>& sizes) {
  std::string all;
  for (const int64_t size : sizes) all += (all.empty() ? "" : ", ") + std::to_string(size);
  return "[" + all + "]";
}

}  // namespace spiketicket
