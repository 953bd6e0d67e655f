// Vectors of positions: the current of one output at many positions, weight by weight. The first phase turns the spikes
// from words of 64 channels into planes of positions, the second computes the outputs, and the third packs their spikes
// into words of channels.
#include <algorithm>
#include <cstdlib>

#include "layouts/memory_layout.h"

namespace spiketicket {
namespace {

constexpr int kOutputsPerTask = 16;
constexpr int kBits = 16;  // positions per mask

size_t rounded(size_t positions) { return (positions + kWord - 1) / kWord * kWord; }

// Transposes the four 16 x 16 bit matrices that 16 words hold: bit 16 b + c of row r becomes bit 16 b + r of row c.
void transpose(uint64_t rows[kBits]) {
  constexpr uint64_t kHalves[] = {0x00FF00FF00FF00FF, 0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555};
  for (int round = 0, j = 8; j > 0; ++round, j /= 2)
    for (int first = 0; first < kBits; first += 2 * j)
      for (int r = first; r < first + j; ++r) {
        const uint64_t swapped = ((rows[r] >> j) ^ rows[r + j]) & kHalves[round];
        rows[r] ^= swapped << j;
        rows[r + j] ^= swapped;
      }
}

class PlaneLayout : public MemoryLayout {
 public:
  PlaneLayout(const Layer& layer, int64_t pitch)
      : layer_(layer), pitch_(pitch), flat_(int((layer.height - 1) * pitch + layer.width)),
        room_(rounded(flat_) + kWord) {}

  int phases() const override { return 3; }

  int tasks(const Context& context, int phase) const override {
    if (phase == 0) return layout_tasks(context);
    if (phase == 1) return context.images * output_tasks();
    return layer_.lif ? context.images * context.timesteps : 0;
  }

  void run(const Context& context, int phase, int task, Scratch& scratch) const override {
    if (phase == 0)
      lay_out(context, task, scratch);
    else if (phase == 1)
      compute(context, task / output_tasks(), task % output_tasks() * kOutputsPerTask, scratch);
    else
      pack(context, task / context.timesteps, task % context.timesteps);
  }

  void reserve(const Context& context) const override {
    reserve_arena(context);
    context.workspace.arena.fired.reserve(context.images * size_t(layer_.outputs) * context.timesteps * fired_words());
    for (Scratch& scratch : context.workspace.scratch) {
      scratch.current.reserve(layer_.planes(context) * room_);
      if (layer_.periodic()) scratch.summed.reserve(context.timesteps * room_);
      scratch.potential.reserve(room_);
      scratch.residuals.reserve(layer_.residuals.size() * kBits * context.timesteps * flat_masks());
    }
  }

  size_t state() const override { return layer_.lif ? layer_.outputs * room_ : 0; }

 protected:
  virtual int layout_tasks(const Context& context) const = 0;
  virtual void lay_out(const Context& context, int task, Scratch& scratch) const = 0;
  virtual void reserve_arena(const Context& context) const = 0;
  // Computes current[plane][position] of one output. Planes are room_ floats apart.
  virtual void accumulate(const Context& context, int image, int channel, float bias, float* current) const = 0;

  const Layer& layer_;
  const int64_t pitch_;  // from one row of positions to the next
  const int flat_;  // positions, with the gaps between rows
  const size_t room_;  // elements for them

 private:
  int output_tasks() const { return (layer_.outputs + kOutputsPerTask - 1) / kOutputsPerTask; }

  void compute(const Context& context, int image, int first, Scratch& scratch) const {
    const int last = std::min(first + kOutputsPerTask, layer_.outputs);
    if (!layer_.residuals.empty()) lay_out_residuals(context, image, first, scratch);
    for (int channel = first; channel < last; ++channel) {
      float* current = scratch.current.data();
      accumulate(context, image, channel, layer_.periodic() ? 0.0f : layer_.bias[channel], current);
      if (layer_.periodic()) {
        std::fill_n(scratch.potential.data(), room_, layer_.bias[channel]);
        sum_periods(context, current, layer_.planes(context), room_, scratch.potential.data(), scratch.summed.data());
        current = scratch.summed.data();
      }
      add_residuals(context, channel, current, scratch);
      if (layer_.lif)
        fire(context, image, channel, current);
      else
        store(context, image, channel, current);
    }
  }

  int flat_masks() const { return (flat_ + kBits - 1) / kBits; }

  // Writes the spikes that are added to 16 outputs as bits of positions: scratch.residuals[residual][output][t][16
  // positions].
  void lay_out_residuals(const Context& context, int image, int first, Scratch& scratch) const {
    uint16_t* out = scratch.residuals.data();
    const size_t step = size_t(context.timesteps) * flat_masks();
    for (int residual : layer_.residuals) {
      const Value& v = context.values[residual];
      for (int t = 0; t < context.timesteps; ++t) {
        const uint64_t* words = context.spikes(v, image, t) + first / kWord;
        int y = 0, x = 0;
        for (int mask = 0; mask < flat_masks(); ++mask) {
          uint64_t rows[kBits] = {};
          for (int i = 0; i < std::min(kBits, flat_ - mask * kBits); ++i) {
            if (x < layer_.width)
              rows[i] = words[(size_t(y) * layer_.width + x) * v.stride()] >> (first % kWord) & 0xFFFF;
            if (++x == pitch_) x = 0, ++y;
          }
          transpose(rows);
          for (int c = 0; c < kBits; ++c) out[c * step + size_t(t) * flat_masks() + mask] = uint16_t(rows[c]);
        }
      }
      out += kBits * step;
    }
  }

  void add_residuals(const Context& context, int channel, float* current, const Scratch& scratch) const {
    const size_t step = size_t(context.timesteps) * flat_masks();
    const uint16_t* masks = scratch.residuals.data() + channel % kBits * step;
    for (size_t i = 0; i < layer_.residuals.size(); ++i, masks += kBits * step)
      for (int t = 0; t < context.timesteps; ++t)
        for (int mask = 0; mask < flat_masks(); ++mask)
          context.kernels.add_spikes(masks[t * flat_masks() + mask], 1, current + t * room_ + mask * kBits);
  }

  // Returns the spikes of one output in arena.fired[image][output][t][64 positions].
  size_t fired_words() const { return (flat_ + kWord - 1) / kWord; }
  uint64_t* fired(const Context& context, int image, int channel) const {
    return context.workspace.arena.fired.data() +
           (size_t(image) * layer_.outputs + channel) * context.timesteps * fired_words();
  }

  void fire(const Context& context, int image, int channel, const float* current) const {
    float* u = nullptr;
    if (context.stateful) u = context.workspace.potentials[layer_.index].data() + image * state() + channel * room_;
    uint64_t* bits = fired(context, image, channel);
    for (int p = 0; p < flat_; p += kWord)
      context.kernels.lif(*layer_.lif, current + p, room_, context.timesteps,
                          (std::min(flat_ - p, kWord) + kLanes - 1) / kLanes, u != nullptr ? u + p : u,
                          bits + p / kWord, fired_words());
  }

  // Packs the bits of positions per output into words of outputs per position. This is a phase of its own, because
  // otherwise threads would write to the same cache line in turn.
  void pack(const Context& context, int image, int t) const {
    const Value& out = context.values[layer_.output];
    const size_t stride = out.stride() * sizeof(uint64_t) / sizeof(uint16_t);
    const size_t next = context.timesteps * fired_words();
    for (size_t group = 0; group < stride; ++group) {
      uint16_t* to = reinterpret_cast<uint16_t*>(context.spikes(out, image, t)) + group;
      const int outputs = std::clamp(layer_.outputs - int(group) * kBits, 0, kBits);  // none: they stay silent
      const uint64_t* from = fired(context, image, 0) + group * kBits * next + t * fired_words();
      for (size_t word = 0; word < fired_words(); ++word) {
        uint64_t rows[kBits] = {};
        for (int i = 0; i < outputs; ++i) rows[i] = from[i * next + word];
        transpose(rows);
        const int last = std::min(kWord, flat_ - int(word) * kWord);
        int y = int(word * kWord / pitch_), x = int(word * kWord % pitch_);
        for (int i = 0; i < last; ++i) {
          if (x < layer_.width)
            to[(size_t(y) * layer_.width + x) * stride] = uint16_t(rows[i % kBits] >> (i / kBits * kBits));
          if (++x == pitch_) x = 0, ++y;
        }
      }
    }
  }

  void store(const Context& context, int image, int channel, const float* current) const {
    const Value& out = context.values[layer_.output];
    for (int t = 0; t < (out.timed ? context.timesteps : 1); ++t) {
      float* to = context.reals(out, image, t) + channel;
      for (int y = 0; y < layer_.height; ++y)
        for (int x = 0; x < layer_.width; ++x, to += out.stride()) *to = current[t * room_ + y * pitch_ + x];
    }
  }
};

// Computes a layer by one masked addition per weight. The masks are arena.masks[image][row][plane][16 positions], in
// which a row occupies whole 64-bit words.
class MaskLayout : public PlaneLayout {
 public:
  explicit MaskLayout(const Layer& layer)
      : PlaneLayout(layer, layer.width), weights_(layer.values, layer.sources, layer.outputs) {
    for (size_t s = 0; s < layer.sources.size(); ++s) {
      inputs_.push_back(inputs_of(s));
      valid_.push_back(valid_of(s));
      shifts_.push_back(shifts_of(s));
      for (const Shift& shift : shifts_.back()) margin_ = std::max(margin_, size_t(std::abs(shift.words)) + 1);
    }
  }

  size_t bytes() const override { return weights_.bytes(); }

 protected:
  int layout_tasks(const Context& context) const override {
    int tasks = 0;
    for (size_t s = 0; s < layer_.sources.size(); ++s) tasks += source_tasks(context, s);
    return tasks;
  }

  void reserve_arena(const Context& context) const override {
    context.workspace.arena.masks.reserve(context.images * image_step(context));
    const size_t words = row_step(context) / kPerWord;
    size_t taps = 0;
    for (const std::vector<Shift>& shifts : shifts_) taps = std::max(taps, shifts.size());
    for (Scratch& scratch : context.workspace.scratch) {
      scratch.bits.reserve((words + 2 * margin_) * kWord);
      scratch.valid.reserve(taps * words);
    }
  }

  // Makes the masks of one word of input channels, for all planes and kernel taps.
  void lay_out(const Context& context, int task, Scratch& scratch) const override {
    size_t s = 0;
    for (; task >= source_tasks(context, s); ++s) task -= source_tasks(context, s);
    const Value& v = layer_.in(s);
    const int word = task % int(v.stride()), image = task / int(v.stride());
    const size_t area = inputs_[s].size() / layer_.positions();
    uint16_t* rows = context.workspace.arena.masks.data() + image * image_step(context) +
                     (weights_.base(s) + size_t(word) * kWord * area) * row_step(context);
    if (!shifts_[s].empty())
      by_shifts(context, s, image, word, rows, scratch);
    else
      by_taps(context, s, image, word, rows);
  }

  void accumulate(const Context& context, int image, int channel, float bias, float* current) const override {
    const std::span<const MaskTap> taps = weights_.taps(channel);
    context.kernels.accumulate_masked(taps.data(), taps.size(), bias,
                                      context.workspace.arena.masks.data() + image * image_step(context),
                                      row_step(context), masks(), layer_.planes(context), masks(), current, room_);
  }

 private:
  static constexpr int kPerWord = kWord / kBits;

  struct Shift {
    int words, bits;  // 0 to 63
  };

  int masks() const { return (layer_.positions() + kBits - 1) / kBits; }
  size_t row_step(const Context& context) const {
    return (size_t(layer_.planes(context)) * masks() + kPerWord - 1) / kPerWord * kPerWord;
  }
  size_t image_step(const Context& context) const { return weights_.rows() * row_step(context); }
  int source_tasks(const Context& context, size_t s) const { return context.images * int(layer_.in(s).stride()); }

  // Returns the shift of the input plane that each kernel tap reads, split into words and bits. It is empty if the taps
  // are not mere shifts: with a stride, or if input and output differ in size.
  std::vector<Shift> shifts_of(size_t s) const {
    const Geometry& g = layer_.sources[s].geometry;
    const Value& v = layer_.in(s);
    std::vector<Shift> shifts;
    if (g.stride_y != 1 || g.stride_x != 1 || v.height != layer_.height || v.width != layer_.width) return shifts;
    for (int ky = 0; ky < g.kernel_y; ++ky)
      for (int kx = 0; kx < g.kernel_x; ++kx) {
        const int shift = (ky * g.dilation_y - g.top) * v.width + kx * g.dilation_x - g.left;
        shifts.push_back({shift >> 6, shift & 63});
      }
    return shifts;
  }

  // Calls store(channel, mask) for 64 channels, with the bits of up to 16 positions. `from` holds the input positions,
  // or -1 where there is none.
  template <class Store>
  void transposed(const uint64_t* words, size_t stride, const int32_t* from, int count, const Store& store) const {
    uint64_t rows[kBits] = {};
    for (int p = 0; p < count; ++p)
      if (from[p] >= 0) rows[p] = words[size_t(from[p]) * stride];
    transpose(rows);
    for (int c = 0; c < kWord; ++c) store(c, uint16_t(rows[c % kBits] >> (c / kBits * kBits)));
  }

  void by_taps(const Context& context, size_t s, int image, int word, uint16_t* rows) const {
    const Value& v = layer_.in(s);
    const int channels = std::min(kWord, v.channels - word * kWord), positions = layer_.positions();
    const size_t area = inputs_[s].size() / positions, step = row_step(context);
    for (int i = 0; i < layer_.planes(context); ++i) {
      const uint64_t* words = context.spikes(v, image, layer_.plane(context, i)) + word;
      for (size_t k = 0; k < area; ++k)
        for (int mask = 0; mask < masks(); ++mask)
          transposed(words, v.stride(), inputs_[s].data() + k * positions + mask * kBits,
                     std::min(kBits, positions - mask * kBits), [&](int c, uint16_t bits) {
                       if (c < channels) rows[(c * area + k) * step + i * masks() + mask] = bits;
                     });
    }
  }

  // Collects the bits [plane][position] of every channel once, with zeros on both sides, and shifts them for each tap.
  void by_shifts(const Context& context, size_t s, int image, int word, uint16_t* rows, Scratch& scratch) const {
    const Value& v = layer_.in(s);
    const int channels = std::min(kWord, v.channels - word * kWord), planes = layer_.planes(context);
    const size_t words = row_step(context) / kPerWord, room = words + 2 * margin_;
    uint64_t* bits = scratch.bits.data();
    std::memset(bits, 0, kWord * room * sizeof(uint64_t));
    int32_t here[kBits];
    for (int i = 0; i < planes; ++i)
      for (int mask = 0; mask < masks(); ++mask) {
        const int count = std::min(kBits, layer_.positions() - mask * kBits);
        for (int p = 0; p < count; ++p) here[p] = mask * kBits + p;
        const size_t at = size_t(i) * masks() + mask;
        uint64_t* to = bits + margin_ + at / kPerWord;
        transposed(context.spikes(v, image, layer_.plane(context, i)) + word, v.stride(), here, count,
                   [&](int c, uint16_t m) { to[c * room] |= uint64_t(m) << (at % kPerWord * kBits); });
      }
    uint64_t* valid = scratch.valid.data();
    for (size_t k = 0; k < shifts_[s].size(); ++k) mark_valid(s, k, planes, words, valid + k * words);
    uint64_t* to = reinterpret_cast<uint64_t*>(rows);
    for (int c = 0; c < channels; ++c)
      for (size_t k = 0; k < shifts_[s].size(); ++k, to += words) {
        const uint64_t* from = bits + c * room + margin_ + shifts_[s][k].words;
        const int down = shifts_[s][k].bits, up = kWord - 1 - down;
        for (size_t w = 0; w < words; ++w) to[w] = (from[w] >> down | from[w + 1] << up << 1) & valid[k * words + w];
      }
  }

  // Sets the bits [plane][position] whose input position under tap k is inside the plane.
  void mark_valid(size_t s, size_t k, int planes, size_t words, uint64_t* valid) const {
    valid[words - 1] = 0;
    for (int i = 0; i < planes; ++i)
      std::copy_n(valid_[s].data() + k * masks(), masks(), reinterpret_cast<uint16_t*>(valid) + i * masks());
  }

  std::vector<uint16_t> valid_of(size_t s) const {
    const size_t positions = layer_.positions(), area = inputs_[s].size() / positions;
    std::vector<uint16_t> valid(area * masks(), 0);
    for (size_t k = 0; k < area; ++k)
      for (size_t p = 0; p < positions; ++p)
        if (inputs_[s][k * positions + p] >= 0) valid[k * masks() + p / kBits] |= uint16_t(1u << p % kBits);
    return valid;
  }

  // Returns the input position of every kernel tap and output position, -1 outside the plane.
  std::vector<int32_t> inputs_of(size_t s) const {
    const Geometry& g = layer_.sources[s].geometry;
    const Value& v = layer_.in(s);
    std::vector<int32_t> inputs;
    for (int ky = 0; ky < g.kernel_y; ++ky)
      for (int kx = 0; kx < g.kernel_x; ++kx)
        for (int p = 0; p < layer_.positions(); ++p) {
          const int y = p / layer_.width * g.stride_y - g.top + ky * g.dilation_y;
          const int x = p % layer_.width * g.stride_x - g.left + kx * g.dilation_x;
          const bool inside = unsigned(y) < unsigned(v.height) && unsigned(x) < unsigned(v.width);
          inputs.push_back(inside ? y * v.width + x : -1);
        }
    return inputs;
  }

  MaskWeights weights_;
  // For every source, [kernel tap][output position]: the input position or -1, and the bits of those that are valid.
  std::vector<std::vector<int32_t>> inputs_;
  std::vector<std::vector<uint16_t>> valid_;
  std::vector<std::vector<Shift>> shifts_;
  size_t margin_ = 1;  // words of zeros beside a channel's bits
};

// Computes a layer by one table look-up per 4 weights. The spikes are
// arena.planes[image][plane][source][group][position]: a byte holds those of 4 channels, and planes have the border
// that the taps need.
class TableLayout : public PlaneLayout {
 public:
  TableLayout(const Layer& layer, TableWeights weights)
      : PlaneLayout(layer, weights.pitch()), weights_(std::move(weights)) {}

  size_t bytes() const override { return weights_.bytes(); }

 protected:
  int layout_tasks(const Context& context) const override {
    return context.images * layer_.planes(context) * int(layer_.sources.size());
  }

  void reserve_arena(const Context& context) const override {
    context.workspace.arena.planes.reserve(size_t(context.images) * layer_.planes(context) * weights_.step());
  }

  void lay_out(const Context& context, int task, Scratch&) const override {
    const int sources = int(layer_.sources.size()), planes = layer_.planes(context);
    const size_t s = task % sources;
    const int i = task / sources % planes, image = task / sources / planes;
    const Value& v = layer_.in(s);
    const PaddedPlane& layout = weights_.layout(s);
    const size_t groups = (v.channels + kGroup - 1) / kGroup, stride = v.stride();
    uint8_t* all =
        context.workspace.arena.planes.data() + (size_t(image) * planes + i) * weights_.step() + weights_.base(s);
    std::memset(all, 0, groups * layout.plane);
    const uint64_t* words = context.spikes(v, image, layer_.plane(context, i));
    for (size_t group = 0; group < groups; ++group) {
      const uint64_t* from = words + group * kGroup / kWord;
      const int shift = int(group * kGroup % kWord);
      for (int y = 0; y < v.height; ++y)
        for (int phase = 0; phase < std::min(layout.phases_x, v.width); ++phase) {
          uint8_t* to = all + group * layout.plane + layout.at(y, phase);
          for (int x = phase; x < v.width; x += layout.phases_x)
            *to++ = uint8_t(from[(size_t(y) * v.width + x) * stride] >> shift & 15);
        }
    }
  }

  void accumulate(const Context& context, int image, int channel, float bias, float* current) const override {
    const std::span<const TableTap> taps = weights_.taps(channel);
    const int planes = layer_.planes(context);
    context.kernels.accumulate_tables(taps.data(), taps.size(), bias,
                                      context.workspace.arena.planes.data() + size_t(image) * planes * weights_.step(),
                                      weights_.step(), planes, flat_, current, room_);
  }

 private:
  TableWeights weights_;
};

}  // namespace

std::unique_ptr<MemoryLayout> make_mask_layout(const Layer& layer) { return std::make_unique<MaskLayout>(layer); }

std::unique_ptr<MemoryLayout> make_table_layout(const Layer& layer) {
  return std::make_unique<TableLayout>(layer, TableWeights(layer.values, layer.sources, layer.outputs, layer.width));
}

}  // namespace spiketicket
