#include "layouts/weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spiketicket {
namespace {

constexpr int kSparseBlock = 512;  // outputs: rows of few nonzeros should not be split further

uint32_t row_of(const Source& source, uint32_t base, int channels, const Nonzero& n) {
  return base + uint32_t(n.y * source.geometry.kernel_x + n.x) * channels + n.channel;
}

}  // namespace

RowWeights::RowWeights(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs,
                       Storage storage)
    : storage_(storage), width_(storage == Storage::sparse ? kSparseBlock : kWord) {
  for (const Source& source : sources) {
    bases_.push_back(uint32_t(rows_));
    rows_ += size_t(source.geometry.kernel_y) * source.geometry.kernel_x * values[source.value].channels;
  }
  if (rows_ > std::numeric_limits<int32_t>::max()) throw std::invalid_argument("a layer has too many inputs");
  for (int first = 0; first < outputs; first += width_) {
    Block& block = blocks_.emplace_back();
    block.vectors = padded(std::min(width_, outputs - first)) / kLanes;
  }
  if (storage == Storage::sparse)
    fill_sparse(values, sources, outputs);
  else if (storage == Storage::int16)
    fill_int16(values, sources, outputs);
  else
    fill_dense(values, sources, outputs);
}

void RowWeights::fill_dense(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs) {
  for (Block& block : blocks_) block.weights.assign(rows_ * block.vectors * kLanes + kLanes, 0.0f);
  for (size_t s = 0; s < sources.size(); ++s) {
    const int channels = values[sources[s].value].channels;
    for (int output = 0; output < outputs; ++output) {
      Block& block = blocks_[output / width_];
      float* column = aligned(block.weights) + output % width_;
      const size_t width = size_t(block.vectors) * kLanes;
      for_nonzeros(sources[s], channels, outputs, output,
                   [&](const Nonzero& n) { column[row_of(sources[s], bases_[s], channels, n) * width] = n.weight; });
    }
  }
}

void RowWeights::fill_sparse(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs) {
  // A counting sort by row, which keeps the outputs within a row in ascending order.
  for (int b = 0; b < blocks(); ++b) {
    Block& block = blocks_[b];
    const int end = std::min(first(b) + width_, outputs);
    const auto visit = [&](const auto& body) {
      for (size_t s = 0; s < sources.size(); ++s)
        for (int output = first(b); output < end; ++output)
          for_nonzeros(sources[s], values[sources[s].value].channels, outputs, output, [&](const Nonzero& n) {
            body(row_of(sources[s], bases_[s], values[sources[s].value].channels, n), output, n.weight);
          });
    };
    std::vector<uint32_t> next(rows_ + 1, 0);
    visit([&](uint32_t row, int, float) { ++next[row + 1]; });
    for (size_t row = 0; row < rows_; ++row) next[row + 1] += next[row];
    block.starts = next;
    block.columns.resize(next[rows_]);
    block.weights.resize(next[rows_]);
    visit([&](uint32_t row, int output, float weight) {
      block.columns[next[row]] = uint16_t(output - first(b));
      block.weights[next[row]++] = weight;
    });
  }
}

// A weight is rounded to scale * integer. The scale of an output makes its largest weight kLargest.
void RowWeights::fill_int16(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs) {
  const auto width_of = [](const Block& block) { return size_t(block.vectors + 1) / 2 * 2 * kLanes; };
  for (Block& block : blocks_) {
    block.whole.assign(rows_ * width_of(block) + kWord, 0);
    block.scale.assign(kWord, 0.0f);
  }
  for (int output = 0; output < outputs; ++output) {
    Block& block = blocks_[output / width_];
    float largest = 0.0f;
    for (const Source& source : sources)
      for_nonzeros(source, values[source.value].channels, outputs, output,
                   [&](const Nonzero& n) { largest = std::max(largest, std::abs(n.weight)); });
    const float scale = largest / kLargest;
    block.scale[output % width_] = scale;
    for (size_t s = 0; s < sources.size(); ++s) {
      const int channels = values[sources[s].value].channels;
      for_nonzeros(sources[s], channels, outputs, output, [&](const Nonzero& n) {
        const float whole = std::nearbyint(scale > 0 ? n.weight / scale : 0.0f);
        aligned(block.whole)[row_of(sources[s], bases_[s], channels, n) * width_of(block) + output % width_] =
            int16_t(std::clamp(whole, float(-kLargest), float(kLargest)));
      });
    }
  }
}

size_t RowWeights::bytes() const {
  size_t total = 0;
  for (const Block& block : blocks_)
    total += block.weights.size() * sizeof(float) + block.starts.size() * sizeof(uint32_t) +
             block.columns.size() * sizeof(uint16_t) + block.whole.size() * sizeof(int16_t) +
             block.scale.size() * sizeof(float);
  return total;
}

TableWeights::TableWeights(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs,
                           int width) {
  int64_t pitch = width;  // one for all sources, so that one output position is one position of each
  for (const Source& source : sources) {
    const Value& in = values[source.value];
    pitch = std::max(pitch, PaddedPlane::for_window(source.geometry, in.height, in.width).pitch);
  }
  for (const Source& source : sources) {
    const Value& in = values[source.value];
    layouts_.push_back(PaddedPlane::for_window(source.geometry, in.height, in.width, pitch));
    bases_.push_back(step_);
    step_ += size_t((in.channels + kGroup - 1) / kGroup) * layouts_.back().plane;
  }
  if (step_ > size_t(std::numeric_limits<int32_t>::max())) throw std::invalid_argument("a padded input is too large");
  starts_.push_back(0);
  for (int output = 0; output < outputs; ++output) {
    for (size_t s = 0; s < sources.size(); ++s)
      add_row(sources[s], s, values[sources[s].value].channels, outputs, output);
    starts_.push_back(taps_.size());
  }
  taps_.shrink_to_fit();
}

// Nonzeros whose input channels share a byte become one tap. Taps keep the order in which they first appear.
void TableWeights::add_row(const Source& source, size_t s, int channels, int rows, int row) {
  const Geometry& g = source.geometry;
  const PaddedPlane& layout = layouts_[s];
  const size_t start = taps_.size();
  int group = -1;
  std::vector<size_t> tap_of(size_t(g.kernel_y) * g.kernel_x);  // of the present group; 0: none yet, else its place + 1
  for_nonzeros(source, channels, rows, row, [&](const Nonzero& n) {
    if (n.channel / kGroup != group) {
      group = n.channel / kGroup;
      std::fill(tap_of.begin(), tap_of.end(), 0);
    }
    size_t& place = tap_of[size_t(n.y) * g.kernel_x + n.x];
    if (place == 0) {
      const int64_t at = layout.at(int64_t(n.y) * g.dilation_y - g.top, int64_t(n.x) * g.dilation_x - g.left);
      taps_.push_back({int32_t(bases_[s] + group * layout.plane + at), {0, 0, 0, 0}});
      place = taps_.size() - start;
    }
    taps_[start + place - 1].weight[n.channel % kGroup] = n.weight;
  });
}

MaskWeights::MaskWeights(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs) {
  for (const Source& source : sources) {
    bases_.push_back(uint32_t(rows_));
    rows_ += size_t(values[source.value].channels) * source.geometry.kernel_y * source.geometry.kernel_x;
  }
  if (rows_ > std::numeric_limits<int32_t>::max()) throw std::invalid_argument("a layer has too many inputs");
  starts_.push_back(0);
  for (int output = 0; output < outputs; ++output) {
    for (size_t s = 0; s < sources.size(); ++s) {
      const Geometry& g = sources[s].geometry;
      for_nonzeros(sources[s], values[sources[s].value].channels, outputs, output, [&](const Nonzero& n) {
        taps_.push_back({bases_[s] + uint32_t((n.channel * g.kernel_y + n.y) * g.kernel_x + n.x), n.weight});
      });
    }
    starts_.push_back(taps_.size());
  }
  taps_.shrink_to_fit();
}

}  // namespace spiketicket
