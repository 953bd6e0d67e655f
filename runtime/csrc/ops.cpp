#include "ops.h"

#include <algorithm>
#include <limits>

#include "fire.h"

namespace spiketicket {
namespace {

constexpr int kPositionsPerTask = 64;

int position_tasks(const Context& context, int positions) {
  return (context.images * positions + kPositionsPerTask - 1) / kPositionsPerTask;
}

// Calls body(image, position) for the positions of one task.
template <class Body>
void for_positions(const Context& context, int positions, int task, const Body& body) {
  const int last = std::min((task + 1) * kPositionsPerTask, context.images * positions);
  for (int p = task * kPositionsPerTask; p < last; ++p) body(p / positions, p % positions);
}

// Adds the value of one position and plane to `sum`, spikes as 0 and 1.
void add_position(const Context& context, const Value& v, int image, int plane, int position, float* sum) {
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

class Neurons : public Operation {
 public:
  Neurons(const Value& v, int input, const LifParameters& lif)
      : input_(input), positions_(v.positions()), channels_(v.channels), lif_(lif) {}
  int tasks(const Context& context, int) const override { return position_tasks(context, positions_); }
  double work() const override { return double(positions_) * channels_ / 8; }
  size_t state() const override { return size_t(positions_) * words_of(channels_) * kWord; }

  void reserve(const Context& context) const override {
    for (Scratch& scratch : context.workspace.scratch) {
      scratch.fired.reserve(context.timesteps);
      if (context.values[input_].spikes) scratch.current.reserve(size_t(context.timesteps) * padded(channels_));
    }
  }

  void run(const Context& context, int, int task, Scratch& scratch) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    const size_t width = padded(channels_);
    for_positions(context, positions_, task, [&](int image, int position) {
      const float* current;
      size_t step;
      if (in.spikes) {
        float* sums = scratch.current.data();
        std::fill(sums, sums + context.timesteps * width, 0.0f);
        for (int t = 0; t < context.timesteps; ++t) add_position(context, in, image, t, position, sums + t * width);
        current = sums;
        step = width;
      } else {
        current = context.reals(in, image) + size_t(position) * in.stride();
        step = in.timed ? in.plane() : 0;
      }
      const State state = state_of(context, index, out, image, position);
      for (int lane = 0; lane < int(width); lane += kWord)
        fire(context, lif_, current + lane, step, std::min((int(width) - lane) / kLanes, kWord / kLanes), out, image,
             position, lane / kWord, state, scratch);
    });
  }

 private:
  int input_, positions_, channels_;
  LifParameters lif_;
};

// Periodic spikes as spikes per timestep.
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

class Pooling : public Operation {
 public:
  Pooling(const Value& v, int input, const Geometry& g, bool max, int height, int width)
      : input_(input), g_(g), max_(max), height_(height), width_(width),
        work_(double(height) * width * g.kernel_y * g.kernel_x * (v.spikes && max ? words_of(v.channels) : v.channels / 8 + 1)) {}
  int tasks(const Context& context, int) const override { return position_tasks(context, height_ * width_); }
  double work() const override { return work_; }

  void run(const Context& context, int, int task, Scratch&) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    for_positions(context, height_ * width_, task, [&](int image, int position) {
      const size_t at = size_t(position) * out.stride();
      if (in.spikes && max_) {
        any(context, in, image, position, context.spikes(out, image) + at, out.plane());
        return;
      }
      for (int plane = 0; plane < context.planes(in); ++plane) {
        if (max_)
          largest(context, in, image, plane, position, context.reals(out, image, plane) + at);
        else
          mean(context, in, image, plane, position, context.reals(out, image, plane) + at);
      }
    });
  }

 private:
  // Calls body(input position) for the pixels of a window that lie inside the plane.
  template <class Body>
  void for_window(const Value& in, int position, const Body& body) const {
    const int top = position / width_ * g_.stride_y - g_.top, left = position % width_ * g_.stride_x - g_.left;
    for (int y = std::max(top, 0); y < std::min(top + g_.kernel_y, in.height); ++y)
      for (int x = std::max(left, 0); x < std::min(left + g_.kernel_x, in.width); ++x) body(y * in.width + x);
  }

  void any(const Context& context, const Value& in, int image, int position, uint64_t* out, size_t out_plane) const {
    const size_t stride = in.stride(), plane = in.plane();
    const int planes = context.planes(in);
    const uint64_t* words = context.spikes(in, image);
    for (int t = 0; t < planes; ++t) std::fill_n(out + t * out_plane, stride, uint64_t(0));
    for_window(in, position, [&](int from) {
      for (int t = 0; t < planes; ++t)
        for (size_t w = 0; w < stride; ++w) out[t * out_plane + w] |= words[t * plane + from * stride + w];
    });
  }

  void largest(const Context& context, const Value& in, int image, int plane, int position, float* out) const {
    const float* x = context.reals(in, image, plane);
    const size_t stride = in.stride();
    std::fill(out, out + stride, -std::numeric_limits<float>::infinity());
    for_window(in, position, [&](int from) {
      for (size_t c = 0; c < stride; ++c) out[c] = std::max(out[c], x[from * stride + c]);
    });
  }

  void mean(const Context& context, const Value& in, int image, int plane, int position, float* out) const {
    const int width = padded(in.channels);
    std::fill(out, out + width, 0.0f);
    for_window(in, position, [&](int from) { add_position(context, in, image, plane, from, out); });
    const float count = float(g_.kernel_y) * float(g_.kernel_x);
    for (int c = 0; c < width; ++c) out[c] /= count;
  }

  int input_;
  Geometry g_;
  bool max_;
  int height_, width_;
  double work_;
};

class Addition : public Operation {
 public:
  Addition(const Value& v, int a, int b) : a_(a), b_(b), positions_(v.positions()), width_(padded(v.channels)) {}
  int tasks(const Context& context, int) const override { return position_tasks(context, positions_); }
  double work() const override { return double(positions_) * width_ / 8; }

  void run(const Context& context, int, int task, Scratch&) const override {
    const Value& a = context.values[a_];
    const Value& b = context.values[b_];
    const Value& out = context.values[output];
    for_positions(context, positions_, task, [&](int image, int position) {
      for (int plane = 0; plane < context.planes(out); ++plane) {
        float* sum = context.reals(out, image, plane) + size_t(position) * out.stride();
        std::fill(sum, sum + width_, 0.0f);
        add_position(context, a, image, a.timed ? plane : 0, position, sum);
        add_position(context, b, image, b.timed ? plane : 0, position, sum);
      }
    });
  }

 private:
  int a_, b_, positions_, width_;
};

}  // namespace

std::unique_ptr<Operation> make_neurons(const std::vector<Value>& values, int input, const LifParameters& lif) {
  return std::make_unique<Neurons>(values[input], input, lif);
}

std::unique_ptr<Operation> make_unroll(const std::vector<Value>& values, int input) {
  return std::make_unique<Unroll>(values[input], input);
}

std::unique_ptr<Operation> make_pooling(const std::vector<Value>& values, int input, const Geometry& geometry, bool max,
                                        int height, int width) {
  return std::make_unique<Pooling>(values[input], input, geometry, max, height, width);
}

std::unique_ptr<Operation> make_addition(const std::vector<Value>& values, int a, int b) {
  return std::make_unique<Addition>(values[a], a, b);
}

}  // namespace spiketicket
