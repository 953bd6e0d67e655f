// The memory layout of an input plane for the table kernel.
//
// The kernel reads a flat plane with a border of zeros, so that the input of output position p under one kernel tap is
// at p + offset. One shared column of zeros is both the right border of a row and the left border of the next row. With
// a stride of s, the padded plane is split into s x s phases (row mod s, column mod s), each of them flat, so that
// consecutive outputs read consecutive inputs.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace spiketicket {

// The window of a convolution or pooling: kernel, stride, padding and dilation.
struct Geometry {
  int kernel_y = 1, kernel_x = 1, stride_y = 1, stride_x = 1;
  int top = 0, left = 0, bottom = 0, right = 0;
  int dilation_y = 1, dilation_x = 1;
};

struct PaddedPlane {
  int top = 0, left = 0;  // border
  int phases_y = 1, phases_x = 1;  // the stride of the convolution that reads the plane
  int64_t pitch = 0;  // elements per row of one phase
  int64_t phase = 0;  // elements per phase
  int64_t plane = 0;  // elements per plane, which holds all phases

  // Returns the index of pixel (y, x). It is valid for border pixels too, and for columns past the right border that
  // are within the window of a valid output.
  int64_t at(int64_t y, int64_t x) const {
    const int64_t row = y + top, column = x + left;
    return (row % phases_y * phases_x + column % phases_x) * phase + row / phases_y * pitch + column / phases_x;
  }

  // Returns the layout in which a convolution with geometry `g` reads a height x width plane. Rows have at least
  // `pitch` elements.
  static PaddedPlane for_window(const Geometry& g, int height, int width, int64_t pitch = 0) {
    PaddedPlane l;
    l.top = g.top;
    l.left = g.left;
    // A stride larger than the padded plane leaves one output, for which more phases than rows would waste memory.
    l.phases_y = std::min(g.stride_y, height + g.top + g.bottom);
    l.phases_x = std::min(g.stride_x, width + g.left + g.right);
    const auto over = [](int64_t n, int64_t d) { return (n + d - 1) / d; };
    l.pitch = std::max(pitch, over(int64_t(width) + std::max(g.left, g.right), l.phases_x));
    // One more row, because the right border of the last row is the left border of the row after it.
    const int64_t rows = over(int64_t(height) + g.top + g.bottom, l.phases_y) + 1;
    l.phase = rows * l.pitch + g.left;
    l.plane = l.phase * l.phases_y * l.phases_x;
    return l;
  }
};

}  // namespace spiketicket
