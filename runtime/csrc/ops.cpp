#include <cmath>
#include <limits>
#include <stdexcept>

#include "network.h"

namespace spiketicket {
namespace {

constexpr int kGroup = 4;  // channels whose spikes share a byte
constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

int groups_of(int channels) { return (channels + kGroup - 1) / kGroup; }

size_t rounded(size_t positions) { return (positions + kTile - 1) / kTile * kTile; }

// Copies channel c of v at timestep t, as floats in plain order.
void read_plane(const Context& context, const Value& v, int t, int c, float* __restrict out) {
  const int height = v.height, width = v.width;
  const size_t from = t * v.step() + v.layout.origin(), pitch = v.layout.pitch;
  if (v.spikes) {
    const uint8_t* __restrict in = context.spikes(v) + from + size_t(c / kGroup) * v.layout.plane;
    const int mask = 1 << (c % kGroup);
    for (int y = 0; y < height; ++y, in += pitch, out += width)
      for (int x = 0; x < width; ++x) out[x] = (in[x] & mask) != 0 ? 1.0f : 0.0f;
  } else {
    const float* in = context.reals(v) + from + size_t(c) * v.layout.plane;
    for (int y = 0; y < height; ++y, in += pitch, out += width) std::memcpy(out, in, width * sizeof(float));
  }
}

// Adds the spikes of channel c, one byte per position in rows of `fired_pitch`, to the packed value v.
void pack_spikes(const Context& context, const Value& v, int c, const uint8_t* fired, size_t fired_pitch, size_t step) {
  const int height = v.height, width = v.width;
  const uint8_t bit = uint8_t(1 << (c % kGroup));
  for (int t = 0; t < context.timesteps; ++t) {
    uint8_t* __restrict out =
        context.spikes(v) + t * v.step() + size_t(c / kGroup) * v.layout.plane + v.layout.origin();
    const uint8_t* __restrict in = fired + t * step;
    for (int y = 0; y < height; ++y, out += v.layout.pitch, in += fired_pitch) {
      if (bit == 1)  // the first channel of a group clears what an earlier run left
        for (int x = 0; x < width; ++x) out[x] = in[x];
      else  // fired is 0 or 1
        for (int x = 0; x < width; ++x) out[x] = uint8_t(out[x] | (uint8_t(-in[x]) & bit));
    }
  }
}

// The potentials of channel c: zero at the start of a run, or those of the call before.
float* potentials(const Context& context, int index, int c, size_t positions) {
  if (context.stateful) return context.workspace.potentials[index].data() + c * rounded(positions);
  float* u = context.scratch.potential.data();
  std::fill(u, u + positions, 0.0f);
  return u;
}

// Copies a value into the layout that a convolution reads.
class Arrange : public Operation {
 public:
  explicit Arrange(int input, const Value& v) : input_(input), planes_(v.planes()), area_(size_t(v.height) * v.width) {}
  int tasks() const override { return planes_; }
  double work() const override { return double(planes_) * area_; }
  size_t positions() const override { return 0; }

  void run(const Context& context, int task) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    for (int t = 0; t < context.steps(in); ++t) {
      const size_t from = t * in.step() + size_t(task) * in.layout.plane;
      const size_t to = t * out.step() + size_t(task) * out.layout.plane;
      if (in.spikes)
        copy(context.spikes(in) + from, in.layout, context.spikes(out) + to, out.layout, in.height, in.width);
      else
        copy(context.reals(in) + from, in.layout, context.reals(out) + to, out.layout, in.height, in.width);
    }
  }

 private:
  // Row by row; within a row, the pixels of one phase lie side by side.
  template <class Element>
  static void copy(const Element* in, const Layout& from, Element* out, const Layout& to, int height, int width) {
    const int stride = to.phases_x;
    for (int y = 0; y < height; ++y)
      for (int first = 0; first < std::min(stride, width); ++first) {
        const Element* __restrict row = in + from.origin() + y * from.pitch;
        Element* __restrict side_by_side = out + to.at(y, first);
        for (int x = first; x < width; x += stride) *side_by_side++ = row[x];
      }
  }

  int input_, planes_;
  size_t area_;
};

class Convolution : public Operation {
 public:
  Convolution(const std::vector<Value>& values, int input, const Geometry& g, int groups, int rows, const CsrView& weight,
              std::span<const float> bias, std::optional<LifParameters> lif, int out_height, int out_width)
      : input_(input), rows_(rows), height_(out_height), width_(out_width), bias_(bias.begin(), bias.end()), lif_(lif) {
    const Value& in = values[input];
    pitch_ = in.layout.pitch;
    positions_ = size_t(out_height - 1) * pitch_ + out_width;
    starts_.push_back(0);
    if (int64_t(in.per_timestep()) > kLargest) throw std::invalid_argument("a padded input is too large");
    const int per_group = in.channels / groups;
    for (int row = 0; row < rows; ++row) {
      const int first_channel = row / (rows / groups) * per_group;
      if (in.spikes)
        add_spike_row(in.layout, g, weight, row, first_channel);
      else
        add_real_row(in.layout, g, weight, row, first_channel);
      starts_.push_back(in.spikes ? spike_taps_.size() : real_taps_.size());
    }
  }

  int tasks() const override { return groups_of(rows_); }
  double work() const override { return positions_ * (double(starts_.back()) / 8 + rows_); }
  size_t positions() const override { return rounded(positions_); }

  void run(const Context& context, int task) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    const Kernels& k = context.kernels;
    const int timesteps = context.steps(in);
    const size_t step = rounded(positions_);
    float* current = context.scratch.current.data();
    for (int row = task * kGroup; row < std::min((task + 1) * kGroup, rows_); ++row) {
      const size_t first = starts_[row], count = starts_[row + 1] - first;
      if (in.spikes)
        k.accumulate_spikes(spike_taps_.data() + first, count, bias_[row], context.spikes(in), in.step(), timesteps,
                            int(positions_), current, step);
      else
        for (int t = 0; t < timesteps; ++t)
          k.accumulate_real(real_taps_.data() + first, count, bias_[row], context.reals(in) + t * in.step(),
                            int(positions_), current + t * step);
      if (lif_) {
        uint8_t* fired = context.scratch.fired.data();
        const size_t current_step = in.step() == 0 ? 0 : step;
        k.lif(*lif_, current, current_step, context.timesteps, int(positions_),
              potentials(context, index, row, positions_), fired, step);
        pack_spikes(context, out, row, fired, pitch_, step);
      } else {
        for (int t = 0; t < timesteps; ++t) {
          float* to = context.reals(out) + t * out.step() + size_t(row) * out.layout.plane;
          for (int y = 0; y < height_; ++y)
            std::memcpy(to + y * out.layout.pitch, current + t * step + y * pitch_, width_ * sizeof(float));
        }
      }
    }
  }

 private:
  struct Column {
    int channel, y, x;
  };

  static Column column(const Geometry& g, uint32_t index, int first_channel) {
    const int area = g.kernel_y * g.kernel_x, tap = int(index % area);
    return {first_channel + int(index / area), tap / g.kernel_x, tap % g.kernel_x};
  }

  static int64_t offset(const Layout& layout, const Geometry& g, const Column& c) {
    return layout.at(int64_t(c.y) * g.dilation_y - g.top, int64_t(c.x) * g.dilation_x - g.left);
  }

  // Nonzeros whose input channels share a byte become one tap, in the order in which they first appear.
  void add_spike_row(const Layout& layout, const Geometry& g, const CsrView& weight, int row, int first_channel) {
    const size_t start = spike_taps_.size();
    const int area = g.kernel_y * g.kernel_x;
    int group = -1;
    std::vector<size_t> tap_of(area);  // of the present group; 0: none yet, otherwise its place + 1
    for (int32_t i = weight.indptr[row]; i < weight.indptr[row + 1]; ++i) {
      const Column c = column(g, weight.indices[i], first_channel);
      if (c.channel / kGroup != group) {
        group = c.channel / kGroup;
        std::fill(tap_of.begin(), tap_of.end(), 0);
      }
      size_t& place = tap_of[c.y * g.kernel_x + c.x];
      if (place == 0) {
        spike_taps_.push_back({int32_t(group * layout.plane + offset(layout, g, c)), {0, 0, 0, 0}});
        place = spike_taps_.size() - start;
      }
      spike_taps_[start + place - 1].weight[c.channel % kGroup] = weight.values[i];
    }
  }

  void add_real_row(const Layout& layout, const Geometry& g, const CsrView& weight, int row, int first_channel) {
    for (int32_t i = weight.indptr[row]; i < weight.indptr[row + 1]; ++i) {
      const Column c = column(g, weight.indices[i], first_channel);
      real_taps_.push_back({int32_t(c.channel * layout.plane + offset(layout, g, c)), weight.values[i]});
    }
  }

  int input_, rows_, height_, width_;
  size_t pitch_ = 0, positions_ = 0;
  std::vector<float> bias_;
  std::optional<LifParameters> lif_;
  std::vector<size_t> starts_;  // of each row's taps
  std::vector<SpikeTap> spike_taps_;
  std::vector<RealTap> real_taps_;
};

class Neurons : public Operation {
 public:
  Neurons(const Value& v, int input, const LifParameters& lif)
      : input_(input), channels_(v.channels), area_(size_t(v.height) * v.width), lif_(lif) {}
  int tasks() const override { return groups_of(channels_); }
  double work() const override { return double(channels_) * area_; }
  size_t positions() const override { return rounded(area_); }

  void run(const Context& context, int task) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    const size_t step = rounded(area_);
    float* current = context.scratch.current.data();
    uint8_t* fired = context.scratch.fired.data();
    for (int c = task * kGroup; c < std::min((task + 1) * kGroup, channels_); ++c) {
      for (int t = 0; t < context.steps(in); ++t) read_plane(context, in, t, c, current + t * step);
      context.kernels.lif(lif_, current, in.step() == 0 ? 0 : step, context.timesteps, int(area_),
                          potentials(context, index, c, area_), fired, step);
      pack_spikes(context, out, c, fired, in.width, step);
    }
  }

 private:
  int input_, channels_;
  size_t area_;
  LifParameters lif_;
};

class Pool2d : public Operation {
 public:
  Pool2d(const Value& v, int input, const Geometry& g, bool max, int out_height, int out_width)
      : input_(input), planes_(v.spikes && max ? v.planes() : v.channels), g_(g), max_(max), height_(out_height),
        width_(out_width), area_(size_t(v.height) * v.width) {}
  int tasks() const override { return planes_; }
  double work() const override { return double(planes_) * area_; }
  size_t positions() const override { return rounded(area_); }

  void run(const Context& context, int task) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    for (int t = 0; t < context.steps(in); ++t) {
      if (in.spikes && max_) {
        const uint8_t* plane = context.spikes(in) + t * in.step() + size_t(task) * in.layout.plane;
        uint8_t* to = context.spikes(out) + t * out.step() + size_t(task) * out.layout.plane;
        reduce(in, plane + in.layout.origin(), in.layout.pitch, to + out.layout.origin(), out.layout.pitch, uint8_t(0),
               [](uint8_t a, uint8_t b) { return uint8_t(a | b); });
      } else {
        float* plane = context.scratch.plane.data();
        read_plane(context, in, t, task, plane);
        float* to = context.reals(out) + t * out.step() + size_t(task) * out.layout.plane;
        if (max_) {
          reduce(in, plane, in.width, to, out.layout.pitch, -std::numeric_limits<float>::infinity(),
                 [](float a, float b) { return a < b ? b : a; });
        } else {
          reduce(in, plane, in.width, to, out.layout.pitch, 0.0f, [](float a, float b) { return a + b; });
          const float count = float(g_.kernel_y) * float(g_.kernel_x);
          for (int p = 0; p < height_ * width_; ++p) to[p] /= count;
        }
      }
    }
  }

 private:
  // For every window: the fold of its pixels inside the plane. Rows are `pitch` elements apart.
  template <class Element, class Fold>
  void reduce(const Value& in, const Element* from, size_t from_pitch, Element* to, size_t to_pitch, Element first,
              Fold fold) const {
    for (int y = 0; y < height_; ++y)
      for (int x = 0; x < width_; ++x) {
        const int y0 = y * g_.stride_y - g_.top, x0 = x * g_.stride_x - g_.left;
        Element result = first;
        for (int iy = std::max(y0, 0); iy < std::min(y0 + g_.kernel_y, in.height); ++iy)
          for (int ix = std::max(x0, 0); ix < std::min(x0 + g_.kernel_x, in.width); ++ix)
            result = fold(result, from[iy * from_pitch + ix]);
        to[y * to_pitch + x] = result;
      }
  }

  int input_, planes_;
  Geometry g_;
  bool max_;
  int height_, width_;
  size_t area_;
};

class Addition : public Operation {
 public:
  Addition(const Value& v, int a, int b) : a_(a), b_(b), channels_(v.channels), area_(size_t(v.height) * v.width) {}
  int tasks() const override { return channels_; }
  double work() const override { return double(channels_) * area_; }
  size_t positions() const override { return rounded(area_); }

  void run(const Context& context, int task) const override {
    const Value& a = context.values[a_];
    const Value& b = context.values[b_];
    const Value& out = context.values[output];
    float* __restrict addend = context.scratch.plane.data();
    for (int t = 0; t < context.steps(out); ++t) {
      float* __restrict sum = context.reals(out) + t * out.step() + size_t(task) * out.layout.plane;
      read_plane(context, a, a.step() == 0 ? 0 : t, task, sum);
      read_plane(context, b, b.step() == 0 ? 0 : t, task, addend);
      for (size_t p = 0; p < area_; ++p) sum[p] += addend[p];
    }
  }

 private:
  int a_, b_, channels_;
  size_t area_;
};

}  // namespace

std::unique_ptr<Operation> make_arrange(const std::vector<Value>& values, int input) {
  return std::make_unique<Arrange>(input, values[input]);
}

std::unique_ptr<Operation> make_conv(const std::vector<Value>& values, int input, const Geometry& geometry, int groups,
                                     int rows, const CsrView& weight, std::span<const float> bias,
                                     std::optional<LifParameters> lif, int out_height, int out_width) {
  return std::make_unique<Convolution>(values, input, geometry, groups, rows, weight, bias, lif, out_height, out_width);
}

std::unique_ptr<Operation> make_lif(const std::vector<Value>& values, int input, const LifParameters& lif) {
  return std::make_unique<Neurons>(values[input], input, lif);
}

std::unique_ptr<Operation> make_pool(const std::vector<Value>& values, int input, const Geometry& geometry, bool max,
                                     int out_height, int out_width) {
  return std::make_unique<Pool2d>(values[input], input, geometry, max, out_height, out_width);
}

std::unique_ptr<Operation> make_add(const std::vector<Value>& values, int a, int b) {
  return std::make_unique<Addition>(values[a], a, b);
}

}  // namespace spiketicket
