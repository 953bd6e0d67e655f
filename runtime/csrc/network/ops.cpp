// The operations without weights that compute every timestep independently.
#include "network/ops.h"

#include <algorithm>
#include <limits>

#include "network/positions.h"

namespace spiketicket {
namespace {

class Pooling : public Operation {
 public:
  Pooling(const Value& v, int input, const Geometry& g, bool max, int height, int width)
      : input_(input), g_(g), max_(max), height_(height), width_(width),
        work_(double(height) * width * g.kernel_y * g.kernel_x *
              (v.spikes && max ? words_of(v.channels) : v.channels / 8 + 1)) {}
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
  // Calls body(input position) for the pixels of a window that are inside the plane.
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

class Conjunction : public Operation {
 public:
  Conjunction(const Value& v, int a, int b, bool negated)
      : a_(a), b_(b), flip_(negated ? ~uint64_t(0) : 0), work_(double(v.plane()) / 4) {}
  int tasks(const Context& context, int) const override { return context.images * context.timesteps; }
  double work() const override { return work_; }

  void run(const Context& context, int, int task, Scratch&) const override {
    const int image = task / context.timesteps, t = task % context.timesteps;
    const Value& out = context.values[output];
    const uint64_t* a = context.spikes(context.values[a_], image, t);
    const uint64_t* b = context.spikes(context.values[b_], image, t);
    uint64_t* __restrict to = context.spikes(out, image, t);
    for (size_t i = 0; i < out.plane(); ++i) to[i] = a[i] & (b[i] ^ flip_);
  }

 private:
  int a_, b_;
  uint64_t flip_;
  double work_;
};

class Concatenation : public Operation {
 public:
  Concatenation(const std::vector<Value>& values, std::vector<int> parts)
      : parts_(std::move(parts)), positions_(values[parts_.front()].positions()) {
    for (const int part : parts_) work_ += double(values[part].plane()) / 4;
  }
  int tasks(const Context& context, int) const override { return position_tasks(context, positions_); }
  double work() const override { return work_; }

  void run(const Context& context, int, int task, Scratch&) const override {
    const Value& out = context.values[output];
    for_positions(context, positions_, task, [&](int image, int position) {
      for (int plane = 0; plane < context.planes(out); ++plane)
        if (out.spikes)
          join_spikes(context, out, image, plane, position);
        else
          join_reals(context, out, image, plane, position);
    });
  }

 private:
  void join_spikes(const Context& context, const Value& out, int image, int plane, int position) const {
    uint64_t* to = context.spikes(out, image, plane) + position * out.stride();
    std::fill_n(to, out.stride(), uint64_t(0));
    int channel = 0;
    for (const int part : parts_) {
      const Value& v = context.values[part];
      append(context.spikes(v, image, plane) + position * v.stride(), v.stride(), to + channel / kWord,
             channel % kWord);
      channel += v.channels;
    }
  }

  // Copies words `shift` bits higher into others. Bits beyond the channels are zero, so that nothing is written past
  // the last word.
  static void append(const uint64_t* from, size_t words, uint64_t* to, int shift) {
    for (size_t w = 0; w < words; ++w) {
      to[w] |= from[w] << shift;
      if (const uint64_t over = shift == 0 ? 0 : from[w] >> (kWord - shift); over != 0) to[w + 1] |= over;
    }
  }

  void join_reals(const Context& context, const Value& out, int image, int plane, int position) const {
    float* to = context.reals(out, image, plane) + position * out.stride();
    for (const int part : parts_) {
      const Value& v = context.values[part];
      const size_t at = position * v.stride();
      if (v.spikes) {
        const uint64_t* words = context.spikes(v, image, plane) + at;
        for (int c = 0; c < v.channels; ++c) to[c] = float(words[c / kWord] >> (c % kWord) & 1);
      } else {
        std::copy_n(context.reals(v, image, v.timed ? plane : 0) + at, v.channels, to);
      }
      to += v.channels;
    }
  }

  std::vector<int> parts_;
  int positions_;
  double work_ = 0;
};

class Flat : public Operation {
 public:
  Flat(const Value& v, int input) : input_(input), work_(double(v.positions()) * v.channels / (v.spikes ? 8 : 1)) {}
  int tasks(const Context& context, int) const override {
    return context.images * context.planes(context.values[input_]);
  }
  double work() const override { return work_; }

  void run(const Context& context, int, int task, Scratch&) const override {
    const Value& in = context.values[input_];
    const Value& out = context.values[output];
    const int image = task / context.planes(in), plane = task % context.planes(in);
    if (in.spikes)
      flatten(in, context.spikes(in, image, plane), context.spikes(out, image, plane), out.stride());
    else
      flatten(in, context.reals(in, image, plane), context.reals(out, image, plane));
  }

 private:
  static void flatten(const Value& in, const uint64_t* words, uint64_t* to, size_t room) {
    std::fill_n(to, room, uint64_t(0));
    const size_t positions = in.positions(), stride = in.stride();
    for (size_t p = 0; p < positions; ++p)
      for (size_t w = 0; w < stride; ++w)
        for (uint64_t left = words[p * stride + w]; left != 0; left &= left - 1) {
          const size_t at = (w * kWord + __builtin_ctzll(left)) * positions + p;
          to[at / kWord] |= uint64_t(1) << (at % kWord);
        }
  }

  static void flatten(const Value& in, const float* x, float* to) {
    for (int c = 0; c < in.channels; ++c)
      for (int p = 0; p < in.positions(); ++p) *to++ = x[p * in.stride() + c];
  }

  int input_;
  double work_;
};

}  // namespace

std::unique_ptr<Operation> make_pooling(const std::vector<Value>& values, int input, const Geometry& geometry, bool max,
                                        int height, int width) {
  return std::make_unique<Pooling>(values[input], input, geometry, max, height, width);
}

std::unique_ptr<Operation> make_addition(const std::vector<Value>& values, int a, int b) {
  return std::make_unique<Addition>(values[a], a, b);
}

std::unique_ptr<Operation> make_conjunction(const std::vector<Value>& values, int a, int b, bool negated) {
  return std::make_unique<Conjunction>(values[a], a, b, negated);
}

std::unique_ptr<Operation> make_concatenation(const std::vector<Value>& values, std::vector<int> parts) {
  return std::make_unique<Concatenation>(values, std::move(parts));
}

std::unique_ptr<Operation> make_flat(const std::vector<Value>& values, int input) {
  return std::make_unique<Flat>(values[input], input);
}

}  // namespace spiketicket
