// Where the positions of a plane lie for the table kernel.
//
// It wants its input plane flat, with a border of zeros, so that output position p of one
// kernel tap is input position p + offset. One shared zero column serves as the right border of a row
// and the left border of the next. With a stride of s, the padded plane is split into s x s phases
// (row mod s, column mod s), each flat, so that consecutive outputs read consecutive inputs.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace spiketicket {

struct Geometry {  // of a convolution or pooling window
  int kernel_y = 1, kernel_x = 1, stride_y = 1, stride_x = 1;
  int top = 0, left = 0, bottom = 0, right = 0;
  int dilation_y = 1, dilation_x = 1;
};

struct Layout {
  int top = 0, left = 0;              // border
  int phases_y = 1, phases_x = 1;     // stride of the reader
  int64_t pitch = 0;                  // elements per row of one phase
  int64_t phase = 0;                  // elements per phase
  int64_t plane = 0;                  // elements per plane: all phases

  // Where pixel (y, x) lies; also right for border pixels, and for columns past the right border as
  // long as they stay within the window of a valid output.
  int64_t at(int64_t y, int64_t x) const {
    const int64_t row = y + top, column = x + left;
    return (row % phases_y * phases_x + column % phases_x) * phase + row / phases_y * pitch + column / phases_x;
  }

  // The layout that a convolution of `g` reads a height x width plane in, its rows at least `pitch` long.
  static Layout for_window(const Geometry& g, int height, int width, int64_t pitch = 0) {
    Layout l;
    l.top = g.top;
    l.left = g.left;
    // A stride beyond the padded plane leaves one output; more phases than rows would only take memory.
    l.phases_y = std::min(g.stride_y, height + g.top + g.bottom);
    l.phases_x = std::min(g.stride_x, width + g.left + g.right);
    const auto over = [](int64_t n, int64_t d) { return (n + d - 1) / d; };
    l.pitch = std::max(pitch, over(int64_t(width) + std::max(g.left, g.right), l.phases_x));
    // One row more: the last row's right border is the left border of the row after it.
    const int64_t rows = over(int64_t(height) + g.top + g.bottom, l.phases_y) + 1;
    l.phase = rows * l.pitch + g.left;
    l.plane = l.phase * l.phases_y * l.phases_x;
    return l;
  }
};

}  // namespace spiketicket
