// The weights of a layer in the memory layout that its kernel reads, made from the CSR of the model file.
#pragma once
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "kernels/kernels.h"
#include "layouts/padded_plane.h"
#include "network/value.h"

namespace spiketicket {

// Sparse weights that belong to the caller. A row is an output channel, a column is (input channel of the group, ky,
// kx).
struct CsrView {
  std::span<const float> values;
  std::span<const uint32_t> indices;
  std::span<const int32_t> indptr;
};

// One input of a layer: it adds the convolution of `value` with `weight` to the current.
struct Source {
  int value;
  Geometry geometry;
  int groups;
  CsrView weight;
};

// A nonzero weight with its input channel and kernel tap (y, x).
struct Nonzero {
  int channel, y, x;
  float weight;
};

// Calls visit(Nonzero) for the nonzeros of one output channel, in the order of the file.
template <class Visit>
void for_nonzeros(const Source& source, int channels, int rows, int row, const Visit& visit) {
  const Geometry& g = source.geometry;
  const uint32_t area = uint32_t(g.kernel_y) * g.kernel_x;
  const int first_channel = row / (rows / source.groups) * (channels / source.groups);
  for (int32_t i = source.weight.indptr[row]; i < source.weight.indptr[row + 1]; ++i) {
    const uint32_t column = source.weight.indices[i], tap = column % area;
    visit(Nonzero{first_channel + int(column / area), int(tap) / g.kernel_x, int(tap) % g.kernel_x,
                  source.weight.values[i]});
  }
}

// How weight rows are stored: all weights, the nonzeros, or all weights as integers with a scale per output.
enum class Storage { dense, sparse, int16 };

// Weights for vectors of channels. A row holds the weights from (source, ky, kx, input channel) to all outputs, split
// into blocks of output channels.
class RowWeights {
 public:
  RowWeights(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs, Storage storage);

  // Returns the row of source s, kernel tap 0, channel 0. The next rows are the other channels, then the other taps.
  uint32_t base(size_t s) const { return bases_[s]; }
  int blocks() const { return int(blocks_.size()); }
  int first(int block) const { return block * width_; }  // output channel
  int vectors(int block) const { return blocks_[block].vectors; }
  size_t bytes() const;

  void gather(const Kernels& k, int block, const uint32_t* rows, const uint32_t* ends, size_t lists, const float* bias,
              float* current) const {
    const Block& b = blocks_[block];
    if (storage_ == Storage::sparse)
      k.gather_sparse(rows, ends, lists, b.starts.data(), b.columns.data(), b.weights.data(), b.vectors, bias, current);
    else if (storage_ == Storage::int16)
      k.gather_int16(rows, ends, lists, aligned(b.whole), b.vectors, b.scale.data(), bias, current);
    else
      k.gather(rows, ends, lists, aligned(b.weights), b.vectors, bias, current);
  }

  void gather_real(const Kernels& k, int block, const Tap* taps, size_t count, const float* x, size_t stride,
                   int channels, const float* bias, float* current) const {
    const Block& b = blocks_[block];
    if (storage_ == Storage::sparse)
      k.gather_real_sparse(taps, count, x, stride, channels, b.starts.data(), b.columns.data(), b.weights.data(),
                           b.vectors, bias, current);
    else
      k.gather_real(taps, count, x, stride, channels, aligned(b.weights), b.vectors, bias, current);
  }

 private:
  struct Block {
    int vectors = 0;  // of 16 outputs
    std::vector<float> weights;     // dense: [row][16 * vectors], from the first cache line on; sparse: nonzeros
    std::vector<uint32_t> starts;   // sparse: [rows + 1]
    std::vector<uint16_t> columns;  // sparse: output channel within the block
    std::vector<int16_t> whole;     // int16: [row][32 * ((vectors + 1) / 2)], from the first cache line on
    std::vector<float> scale;       // int16: [64]
  };

  // Returns the first element at the beginning of a cache line.
  template <class Element>
  static Element* aligned(std::vector<Element>& elements) {
    const auto address = reinterpret_cast<uintptr_t>(elements.data());
    return elements.data() + (64 - address % 64) % 64 / sizeof(Element);
  }
  template <class Element>
  static const Element* aligned(const std::vector<Element>& elements) {
    return aligned(const_cast<std::vector<Element>&>(elements));
  }

  void fill_dense(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs);
  void fill_sparse(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs);
  void fill_int16(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs);

  Storage storage_ = Storage::dense;
  int width_ = 0;  // output channels per block
  std::vector<uint32_t> bases_;
  size_t rows_ = 0;
  std::vector<Block> blocks_;
};

// Weights for table look-up: per output channel, taps of 4 input channels. Output rows are `width` positions wide.
class TableWeights {
 public:
  TableWeights(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs, int width);

  const PaddedPlane& layout(size_t s) const { return layouts_[s]; }
  size_t base(size_t s) const { return bases_[s]; }  // offset of source s among the bytes of one timestep
  size_t step() const { return step_; }              // bytes per timestep
  int64_t pitch() const { return layouts_.front().pitch; }
  std::span<const TableTap> taps(int output) const {
    return {taps_.data() + starts_[output], starts_[output + 1] - starts_[output]};
  }
  size_t bytes() const { return taps_.size() * sizeof(TableTap); }

 private:
  void add_row(const Source& source, size_t s, int channels, int rows, int row);

  std::vector<PaddedPlane> layouts_;
  std::vector<size_t> bases_;
  size_t step_ = 0;
  std::vector<size_t> starts_;
  std::vector<TableTap> taps_;
};

// Weights for masks: per output channel, the nonzeros. The mask row of a weight is (source, input channel, ky, kx).
class MaskWeights {
 public:
  MaskWeights(const std::vector<Value>& values, const std::vector<Source>& sources, int outputs);

  uint32_t base(size_t s) const { return bases_[s]; }
  size_t rows() const { return rows_; }
  std::span<const MaskTap> taps(int output) const {
    return {taps_.data() + starts_[output], starts_[output + 1] - starts_[output]};
  }
  size_t bytes() const { return taps_.size() * sizeof(MaskTap); }

 private:
  std::vector<uint32_t> bases_;
  size_t rows_ = 0;
  std::vector<size_t> starts_;
  std::vector<MaskTap> taps_;
};

}  // namespace spiketicket
