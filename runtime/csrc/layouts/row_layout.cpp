// Vectors of channels: the current of 64 outputs at one position is the sum of the weight rows of the spikes under the
// kernel. The first phase lists the events of every input position; the second lists the weight rows of every output
// position, sums them and runs the neurons.
#include <algorithm>

#include "layouts/fire.h"
#include "layouts/memory_layout.h"

namespace spiketicket {
namespace {

constexpr size_t kCached = size_t(1) << 20;    // bytes of weights that a core keeps beside everything else
constexpr size_t kTasks = 8;                   // that a layer should at least have
constexpr size_t kListRoom = size_t(1) << 22;  // rows listed at once

const float kNoBias[512] = {};

class RowLayout : public MemoryLayout {
 public:
  RowLayout(const Layer& layer, Storage storage, int tile)
      : layer_(layer), tile_(tile), weights_(layer.values, layer.sources, layer.outputs, storage) {}

  int tasks(const Context& context, int phase) const override {
    if (phase == 0) {
      if (layer_.real()) return 0;
      int tasks = 0;
      for (size_t s = 0; s < layer_.sources.size(); ++s) tasks += context.images * layer_.planes(context) * parts(s);
      return tasks;
    }
    const int tile = tile_positions(context), positions = context.images * layer_.positions();
    return (positions + tile - 1) / tile * (split_blocks(context) ? weights_.blocks() : 1);
  }

  void run(const Context& context, int phase, int task, Scratch& scratch) const override {
    if (phase == 0)
      expand(context, task);
    else if (layer_.real())
      gather_real(context, tile_of(context, task), scratch);
    else
      gather(context, tile_of(context, task), scratch);
  }

  void reserve(const Context& context) const override;
  size_t state() const override {
    return layer_.lif ? size_t(layer_.positions()) * words_of(layer_.outputs) * kWord : 0;
  }
  size_t bytes() const override { return weights_.bytes(); }

 private:
  struct Tile {  // what one task computes
    int first, last;              // positions, counted over all images
    int first_block, last_block;  // of outputs
  };

  size_t rows() const {
    size_t rows = 0;
    for (size_t s = 0; s < layer_.sources.size(); ++s) rows += area(s) * layer_.in(s).channels;
    return rows;
  }
  size_t area(size_t s) const {
    return size_t(layer_.sources[s].geometry.kernel_y) * layer_.sources[s].geometry.kernel_x;
  }

  int tile_positions(const Context& context) const;
  bool split_blocks(const Context& context) const;
  Tile tile_of(const Context& context, int task) const;
  size_t taps_of(int position, Tap* taps) const;
  size_t runs_of(size_t s, int position, Run* runs) const;
  // Whether event numbers continue from one position of an input row to the next, which they do if 16 bits suffice.
  bool numbered_on(size_t s) const { return layer_.in(s).width * layer_.in(s).channels <= 1 << 16; }
  // Different threads list the events of a plane in parts of a few rows. Each part has memory of its own.
  int parts(size_t s) const { return std::min((layer_.in(s).positions() + 255) / 256, layer_.in(s).height); }
  int part_rows(size_t s) const { return (layer_.in(s).height + parts(s) - 1) / parts(s); }
  size_t part_room(size_t s) const;
  EventSpan* spans(const Context& context, size_t s, int image, int plane) const;
  uint16_t* events(const Context& context, size_t s, int image, int plane) const;

  void expand(const Context& context, int task) const;
  void gather(const Context& context, const Tile& tile, Scratch& scratch) const;
  void gather_real(const Context& context, const Tile& tile, Scratch& scratch) const;
  void finish(const Context& context, int image, int position, int block, float* current, Scratch& scratch) const;

  const Layer& layer_;
  int tile_;
  RowWeights weights_;
};

// Returns the positions per task: the chosen tile, or fewer if the lists would be too long or the tasks too few.
int RowLayout::tile_positions(const Context& context) const {
  const size_t positions = size_t(context.images) * layer_.positions();
  const size_t listed = kListRoom / (rows() * layer_.planes(context)) + 1;
  const size_t shared = std::max(positions * weights_.blocks() / kTasks, size_t(1));
  return int(std::min({size_t(tile_), listed, shared}));
}

// Returns whether a task computes only one block of outputs. It does if the weights exceed the cache, so that a block
// stays in the cache from tile to tile.
bool RowLayout::split_blocks(const Context& context) const {
  const int positions = context.images * layer_.positions();
  return weights_.blocks() > 1 && (weights_.bytes() > kCached || positions < 8 * tile_positions(context));
}

RowLayout::Tile RowLayout::tile_of(const Context& context, int task) const {
  const int size = tile_positions(context), positions = context.images * layer_.positions();
  const int tiles = (positions + size - 1) / size, tile = task % tiles, block = task / tiles;
  const bool split = split_blocks(context);
  return {tile * size, std::min((tile + 1) * size, positions), split ? block : 0,
          split ? block + 1 : weights_.blocks()};
}

// Lists the input positions of the first source under the kernel at one output position. Returns how many there are.
size_t RowLayout::taps_of(int position, Tap* taps) const {
  const Geometry& g = layer_.sources[0].geometry;
  const Value& v = layer_.in(0);
  const int top = position / layer_.width * g.stride_y - g.top, left = position % layer_.width * g.stride_x - g.left;
  size_t count = 0;
  for (int ky = 0; ky < g.kernel_y; ++ky) {
    const int y = top + ky * g.dilation_y;
    if (unsigned(y) >= unsigned(v.height)) continue;
    for (int kx = 0; kx < g.kernel_x; ++kx) {
      const int x = left + kx * g.dilation_x;
      if (unsigned(x) >= unsigned(v.width)) continue;
      taps[count++] = {uint32_t(y) * v.width + x, uint32_t(ky * g.kernel_x + kx) * v.channels};
    }
  }
  return count;
}

// Lists the same positions of source s as runs: one run per kernel row if its positions are neighbours and their event
// numbers continue, otherwise one per position. Returns how many there are.
size_t RowLayout::runs_of(size_t s, int position, Run* runs) const {
  const Geometry& g = layer_.sources[s].geometry;
  const Value& v = layer_.in(s);
  const int top = position / layer_.width * g.stride_y - g.top, left = position % layer_.width * g.stride_x - g.left;
  const bool together = numbered_on(s) && g.dilation_x == 1;
  const int first = std::max(-left, 0), last = std::min(v.width - left, g.kernel_x) - 1;
  size_t count = 0;
  for (int ky = 0; ky < g.kernel_y; ++ky) {
    const int y = top + ky * g.dilation_y;
    if (unsigned(y) >= unsigned(v.height)) continue;
    const uint32_t line = uint32_t(y) * v.width, row = weights_.base(s) + uint32_t(ky * g.kernel_x) * v.channels;
    if (together) {
      if (first <= last) runs[count++] = {line + left + first, line + left + last, row - uint32_t(left * v.channels)};
      continue;
    }
    for (int kx = 0; kx < g.kernel_x; ++kx) {
      const int x = left + kx * g.dilation_x;
      if (unsigned(x) >= unsigned(v.width)) continue;
      const uint32_t numbered = numbered_on(s) ? uint32_t(x) * v.channels : 0;
      runs[count++] = {line + x, line + x, row + uint32_t(kx) * v.channels - numbered};
    }
  }
  return count;
}

size_t RowLayout::part_room(size_t s) const {
  return size_t(part_rows(s)) * layer_.in(s).width * layer_.in(s).channels + kSlack;
}

EventSpan* RowLayout::spans(const Context& context, size_t s, int image, int plane) const {
  const size_t planes = layer_.planes(context);
  size_t before = 0;
  for (size_t other = 0; other < s; ++other) before += context.images * planes * layer_.in(other).positions();
  return context.workspace.arena.spans.data() + before + (image * planes + plane) * layer_.in(s).positions();
}

uint16_t* RowLayout::events(const Context& context, size_t s, int image, int plane) const {
  const size_t planes = layer_.planes(context);
  size_t before = 0;
  for (size_t other = 0; other < s; ++other) before += context.images * planes * parts(other) * part_room(other);
  return context.workspace.arena.events.data() + before + (image * planes + plane) * parts(s) * part_room(s);
}

void RowLayout::reserve(const Context& context) const {
  const size_t last = layer_.sources.size() - 1, count = layer_.planes(context);
  if (!layer_.real()) {
    Arena& arena = context.workspace.arena;
    arena.spans.reserve(spans(context, last, context.images, 0) - arena.spans.data());
    arena.events.reserve(events(context, last, context.images, 0) - arena.events.data());
  }
  size_t taps = 0;
  for (size_t s = 0; s < layer_.sources.size(); ++s) taps += area(s);
  const size_t tile = layer_.real() ? 1 : tile_positions(context), width = size_t(weights_.vectors(0)) * kLanes;
  for (Scratch& scratch : context.workspace.scratch) {
    scratch.taps.reserve(taps);
    scratch.runs.reserve(taps);
    if (!layer_.real()) scratch.rows.reserve(tile * count * rows());
    scratch.ends.reserve(tile * count);
    scratch.current.reserve(tile * count * width);
    if (layer_.periodic()) scratch.summed.reserve(context.timesteps * width);
    scratch.fired.reserve(context.timesteps);
  }
}

void RowLayout::expand(const Context& context, int task) const {
  const int planes = layer_.planes(context);
  size_t s = 0;
  for (int tasks; task >= (tasks = context.images * planes * parts(s)); ++s) task -= tasks;
  const int part = task % parts(s), i = task / parts(s) % planes, image = task / parts(s) / planes;
  const Value& v = layer_.in(s);
  const int stride = int(v.stride());
  const uint64_t* words = context.spikes(v, image, layer_.plane(context, i));
  EventSpan* span = spans(context, s, image, i);
  uint16_t* to = events(context, s, image, i);
  uint32_t first = uint32_t(part * part_room(s));
  for (int y = part * part_rows(s); y < std::min((part + 1) * part_rows(s), v.height); ++y)
    for (int x = 0; x < v.width; ++x) {
      const size_t p = size_t(y) * v.width + x;
      const uint16_t base = numbered_on(s) ? uint16_t(x * v.channels) : 0;
      const uint32_t count = context.kernels.expand(words + p * stride, stride, base, to + first);
      span[p] = {first, count};
      first += count;
    }
}

void RowLayout::gather(const Context& context, const Tile& tile, Scratch& scratch) const {
  const int count = layer_.planes(context), area = layer_.positions();
  uint32_t* const rows = scratch.rows.data();
  uint32_t* const ends = scratch.ends.data();
  Run* const runs = scratch.runs.data();
  uint32_t* row = rows;
  size_t lists = 0;
  const bool single = layer_.sources.size() == 1;
  for (int p = tile.first; p < tile.last; ++p) {
    const int image = p / area, position = p % area;
    if (single) {
      const size_t under = runs_of(0, position, runs);
      const EventSpan* span = spans(context, 0, image, 0);
      const uint16_t* event = events(context, 0, image, 0);
      const size_t next_span = layer_.in(0).positions(), next_event = parts(0) * part_room(0);
      for (int i = 0; i < count; ++i, span += next_span, event += next_event) {
        row = context.kernels.list_rows(runs, under, span, event, row);
        ends[lists++] = uint32_t(row - rows);
      }
      continue;
    }
    for (int i = 0; i < count; ++i) {
      for (size_t s = 0; s < layer_.sources.size(); ++s)
        row = context.kernels.list_rows(runs, runs_of(s, position, runs), spans(context, s, image, i),
                                        events(context, s, image, i), row);
      ends[lists++] = uint32_t(row - rows);
    }
  }
  float* const current = scratch.current.data();
  for (int block = tile.first_block; block < tile.last_block; ++block) {
    const size_t width = size_t(weights_.vectors(block)) * kLanes;
    const float* bias = layer_.periodic() ? kNoBias : layer_.bias.data() + weights_.first(block);
    weights_.gather(context.kernels, block, rows, ends, lists, bias, current);
    for (int p = tile.first; p < tile.last; ++p)
      finish(context, p / area, p % area, block, current + size_t(p - tile.first) * count * width, scratch);
  }
}

void RowLayout::gather_real(const Context& context, const Tile& tile, Scratch& scratch) const {
  const int count = layer_.planes(context), area = layer_.positions();
  const Value& v = layer_.in(0);
  Tap* const taps = scratch.taps.data();
  float* const current = scratch.current.data();
  for (int p = tile.first; p < tile.last; ++p) {
    const int image = p / area, position = p % area;
    const size_t under = taps_of(position, taps);
    for (int block = tile.first_block; block < tile.last_block; ++block) {
      const size_t width = size_t(weights_.vectors(block)) * kLanes;
      for (int i = 0; i < count; ++i)
        weights_.gather_real(context.kernels, block, taps, under, context.reals(v, image, i), v.stride(), v.channels,
                             layer_.bias.data() + weights_.first(block), current + i * width);
      finish(context, image, position, block, current, scratch);
    }
  }
}

// Turns the currents [plane][channel] of one position and block into the output: adds residuals and runs the neurons.
void RowLayout::finish(const Context& context, int image, int position, int block, float* current,
                       Scratch& scratch) const {
  const Value& out = context.values[layer_.output];
  const int first = weights_.first(block), lanes = weights_.vectors(block) * kLanes;
  const int timesteps = out.timed ? context.timesteps : 1;
  if (layer_.periodic()) {
    sum_periods(context, current, layer_.planes(context), lanes, layer_.bias.data() + first, scratch.summed.data());
    current = scratch.summed.data();
  }
  for (int residual : layer_.residuals) {
    const Value& v = context.values[residual];
    for (int t = 0; t < timesteps; ++t) {
      const uint64_t* words = context.spikes(v, image, t) + size_t(position) * v.stride() + first / kWord;
      for (int lane = 0; lane < lanes; lane += kWord)
        context.kernels.add_spikes(*words++, std::min(lanes - lane, kWord) / kLanes, current + t * lanes + lane);
    }
  }
  if (layer_.lif) {
    const State state = state_of(context, layer_.index, out, image, position);
    for (int lane = 0; lane < lanes; lane += kWord)
      fire(context, *layer_.lif, current + lane, lanes, std::min(lanes - lane, kWord) / kLanes, out, image, position,
           (first + lane) / kWord, state, scratch);
  } else {
    for (int t = 0; t < timesteps; ++t)
      std::memcpy(context.reals(out, image, t) + size_t(position) * out.stride() + first, current + size_t(t) * lanes,
                  lanes * sizeof(float));
  }
}

}  // namespace

std::unique_ptr<MemoryLayout> make_row_layout(const Layer& layer, Storage storage, int tile) {
  return std::make_unique<RowLayout>(layer, storage, tile);
}

}  // namespace spiketicket
