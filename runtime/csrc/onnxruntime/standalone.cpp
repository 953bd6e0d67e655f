#include "onnxruntime/standalone.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <stdexcept>

// Compiles a loop of this file once per instruction set. The one to use is chosen when the library is loaded.
#if defined(SPIKETICKET_X86) && defined(__GNUC__) && !defined(__clang__)
#define SPIKETICKET_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SPIKETICKET_CLONES
#endif

namespace spiketicket {
namespace {

constexpr int64_t kMostElements = std::numeric_limits<int32_t>::max();  // of one image: the engine counts in 32 bits
constexpr int64_t kMostInputs = int64_t(1) << 26;   // of one output: the engine has an entry for each
constexpr int64_t kMostEvents = int64_t(1) << 16;   // channels that an event can number
constexpr size_t kTogether = size_t(1) << 20;       // elements of the images that are computed layer by layer
constexpr size_t kMostSizes = 4;
constexpr int64_t kMostTimesteps = 1 << 14;
constexpr double kWorthThreads = 50'000;            // nanoseconds
constexpr uint32_t kOne = 0x3F800000;               // 1.0f
constexpr int kRow = 64;                            // positions packed at once
constexpr int kNeurons = 2048;                      // whose potentials stay in the first cache

// Returns the output size of one axis, or 0 if the window does not fit.
int64_t window(int64_t size, int64_t kernel, int64_t stride, int64_t before, int64_t after, int64_t dilation) {
  const int64_t room = size + before + after - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

// Sets bit c of bits[p] if x[c * step + p] is 1, for up to 32 channels. Returns false if an element is neither 0 nor 1.
SPIKETICKET_CLONES
bool pack_row(const uint32_t* x, size_t step, int channels, int count, uint32_t* bits) {
  uint32_t others = 0;
  if (count == kRow) {  // the same with a constant length: without a remainder
    for (int p = 0; p < kRow; ++p) bits[p] = 0;
    for (int c = 0; c < channels; ++c, x += step)
      for (int p = 0; p < kRow; ++p) {
        const uint32_t one = x[p] >> 29;
        others |= x[p] ^ (kOne & (0u - one));
        bits[p] |= one << c;
      }
    return others == 0;
  }
  for (int p = 0; p < count; ++p) bits[p] = 0;
  for (int c = 0; c < channels; ++c, x += step)
    for (int p = 0; p < count; ++p) {
      const uint32_t one = x[p] >> 29;
      others |= x[p] ^ (kOne & (0u - one));
      bits[p] |= one << c;
    }
  return others == 0;
}

// Packs one word of channels of one image from [channel][position] to [position][word]. Returns false if an element is
// neither 0 nor 1.
bool pack(const float* x, int channels, int positions, uint64_t* words, size_t stride) {
  const auto* raw = reinterpret_cast<const uint32_t*>(x);
  uint32_t low[kRow], high[kRow];
  for (int p = 0; p < positions; p += kRow) {
    const int count = std::min(kRow, positions - p);
    if (!pack_row(raw + p, positions, std::min(channels, 32), count, low)) return false;
    if (channels > 32) {
      if (!pack_row(raw + p + size_t(32) * positions, positions, channels - 32, count, high)) return false;
    } else {
      std::fill_n(high, kRow, 0);
    }
    for (int i = 0; i < count; ++i) words[size_t(p + i) * stride] = uint64_t(high[i]) << 32 | low[i];
  }
  return true;
}

// Transposes a matrix: to[column][row] = from[row][column], with rows `from_step` and `to_step` floats apart. It works
// in tiles whose cache lines stay in the cache.
void transpose(const float* from, size_t from_step, int rows, int columns, float* to, size_t to_step) {
  constexpr int kTile = 16;
  for (int r = 0; r < rows; r += kTile)
    for (int c = 0; c < columns; c += kTile)
      for (int j = c; j < std::min(c + kTile, columns); ++j)
        for (int i = r; i < std::min(r + kTile, rows); ++i) to[j * to_step + i] = from[i * from_step + j];
}

template <bool Soft>
inline void fire_row(const LifParameters& lif, const float* x, size_t count, float* u, float* spikes) {
  for (size_t i = 0; i < count; ++i) {
    const float h = u[i] * lif.keep + x[i] * lif.gain;
    const bool fired = h >= lif.level;
    spikes[i] = fired ? 1.0f : 0.0f;
    u[i] = fired ? (Soft ? h - lif.drop : 0.0f) : h;
  }
}

SPIKETICKET_CLONES
void fire_rows(const LifParameters& lif, const float* x, int64_t timesteps, size_t step, size_t count, float* spikes) {
  float u[kNeurons] = {};
  for (int64_t t = 0; t < timesteps; ++t)
    if (lif.soft)
      fire_row<true>(lif, x + t * step, count, u, spikes + t * step);
    else
      fire_row<false>(lif, x + t * step, count, u, spikes + t * step);
}

int checked_int(int64_t value, int64_t least, const std::string& name) {
  require(value >= least && value <= (1 << 24),
          name + " must lie between " + std::to_string(least) + " and 2^24, got " + std::to_string(value));
  return int(value);
}

}  // namespace

// A workspace that is returned to its pool at the end of the scope.
class StandaloneLayer::Borrowed {
 public:
  explicit Borrowed(WorkspacePool& pool) : pool_(pool), workspace_(pool.borrow()) {}
  ~Borrowed() { pool_.give_back(std::move(workspace_)); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  Workspace& operator*() const { return *workspace_; }
  Workspace* operator->() const { return workspace_.get(); }

 private:
  WorkspacePool& pool_;
  std::unique_ptr<Workspace> workspace_;
};

// The layer for inputs of one size, spikes or real: its weights in the memory layout of the kernel that was chosen.
struct StandaloneLayer::SizedLayer {
  SizedLayer(const StandaloneLayer& of, int height, int width, int out_height, int out_width, bool spikes)
      : values{
            {.channels = of.channels_, .height = height, .width = width, .spikes = spikes, .timed = true, .storage = 0},
            {.channels = of.outputs_, .height = out_height, .width = out_width, .timed = true, .storage = 1}},
        layer(Layer{values,
                    {Source{0, of.geometry_, of.groups_, {of.csr_.values, of.csr_.indices, of.csr_.indptr}}},
                    {},
                    of.outputs_,
                    out_height,
                    out_width,
                    of.bias_,
                    std::nullopt}) {
    layer.place(1, 0);
    layer.choose(layer.choices().front());
  }
  const Value& in() const { return values[0]; }
  const Value& out() const { return values[1]; }

  std::vector<Value> values;
  Convolution layer;
};

StandaloneLayer::StandaloneLayer(std::vector<int64_t> shape, Csr csr, std::vector<float> bias,
                                 std::vector<int64_t> strides, std::vector<int64_t> pads,
                                 std::vector<int64_t> dilations, int64_t groups, std::shared_ptr<WorkspacePool> pool)
    : csr_(std::move(csr)), bias_(std::move(bias)), kernels_(select_kernels()), pool_(std::move(pool)) {
  require(shape.size() == 2 || shape.size() == 4, "weight_shape must have 2 or 4 sizes, got " + text(shape));
  int64_t columns = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    require(shape[i] > 0 && shape[i] <= kMostElements, "weight_shape must be positive sizes, got " + text(shape));
    if (i > 0) columns *= shape[i];
    require(columns <= kMostInputs, "weight_shape " + text(shape) + " is too large");
  }
  const int64_t rows = shape[0];
  require(rows <= kMostElements / columns, "weight_shape " + text(shape) + " is too large");
  require(strides.size() == 2, "strides must be 2 numbers, got " + text(strides));
  require(dilations.size() == 2, "dilations must be 2 numbers, got " + text(dilations));
  require(pads.size() == 4, "pads must be 4 numbers, got " + text(pads));
  require(groups >= 1 && rows % groups == 0,
          "group must divide the " + std::to_string(rows) + " outputs, got " + std::to_string(groups));
  require(shape[1] <= kMostElements / groups, "weight_shape " + text(shape) + " is too large");
  const bool linear = shape.size() == 2;
  geometry_.kernel_y = linear ? 1 : checked_int(shape[2], 1, "the kernel's height");
  geometry_.kernel_x = linear ? 1 : checked_int(shape[3], 1, "the kernel's width");
  geometry_.stride_y = checked_int(strides[0], 1, "strides");
  geometry_.stride_x = checked_int(strides[1], 1, "strides");
  geometry_.dilation_y = checked_int(dilations[0], 1, "dilations");
  geometry_.dilation_x = checked_int(dilations[1], 1, "dilations");
  geometry_.top = checked_int(pads[0], 0, "pads");
  geometry_.left = checked_int(pads[1], 0, "pads");
  geometry_.bottom = checked_int(pads[2], 0, "pads");
  geometry_.right = checked_int(pads[3], 0, "pads");
  const int64_t span_y = int64_t(geometry_.dilation_y) * (geometry_.kernel_y - 1) + 1;
  const int64_t span_x = int64_t(geometry_.dilation_x) * (geometry_.kernel_x - 1) + 1;
  require(span_y <= 1 << 24 && span_x <= 1 << 24 && std::max(pads[0], pads[2]) <= span_y &&
              std::max(pads[1], pads[3]) <= span_x,
          "pads " + text(pads) + " must not be larger than the kernel");
  outputs_ = int(rows);
  groups_ = int(groups);
  channels_ = int(shape[1] * groups);

  const size_t nonzeros = csr_.values.size();
  require(csr_.indices.size() == nonzeros,
          std::to_string(nonzeros) + " values but " + std::to_string(csr_.indices.size()) + " indices");
  require(bias_.size() == size_t(rows),
          "bias has " + std::to_string(bias_.size()) + " entries, expected " + std::to_string(rows));
  require(csr_.indptr.size() == size_t(rows) + 1, "indptr has " + std::to_string(csr_.indptr.size()) +
                                                      " entries, expected rows + 1 = " + std::to_string(rows + 1));
  require(nonzeros <= size_t(kMostElements) && csr_.indptr.front() == 0 && csr_.indptr.back() == int64_t(nonzeros) &&
              std::is_sorted(csr_.indptr.begin(), csr_.indptr.end()),
          "indptr must rise from 0 to " + std::to_string(nonzeros) + " (the number of values) without falling");
  for (int64_t row = 0; row < rows; ++row)
    for (int32_t i = csr_.indptr[row]; i < csr_.indptr[row + 1]; ++i) {
      require(csr_.indices[i] < columns, "an index lies outside its row of " + std::to_string(columns) + " columns");
      require(i == csr_.indptr[row] || csr_.indices[i - 1] < csr_.indices[i], "indices must rise within a row");
    }
}

std::pair<int, int> StandaloneLayer::output_size(int64_t channels, int64_t height, int64_t width) const {
  require(channels == channels_,
          "X has " + std::to_string(channels) + " channels, the weight expects " + std::to_string(channels_));
  const std::string size = std::to_string(height) + " x " + std::to_string(width);
  require(
      height >= 1 && width >= 1 && height <= 1 << 24 && width <= 1 << 24 && height * width <= kMostElements / channels,
      "images of " + size + " are not supported");
  const Geometry& g = geometry_;
  const int64_t h = window(height, g.kernel_y, g.stride_y, g.top, g.bottom, g.dilation_y);
  const int64_t w = window(width, g.kernel_x, g.stride_x, g.left, g.right, g.dilation_x);
  require(h >= 1 && w >= 1, "the kernel does not fit into images of " + size);
  // The limit includes padded rows and channels.
  require((h + 1) * (w + 1) <= kMostElements / (outputs_ + kWord),
          "outputs of " + std::to_string(h) + " x " + std::to_string(w) + " are not supported");
  return {int(h), int(w)};
}

std::shared_ptr<StandaloneLayer::SizedLayer> StandaloneLayer::layer_for(int height, int width, bool spikes) const {
  const std::lock_guard lock(mutex_);
  auto found = std::find_if(sized_layers_.begin(), sized_layers_.end(), [&](const auto& sized) {
    return sized->in().height == height && sized->in().width == width && sized->in().spikes == spikes;
  });
  if (found == sized_layers_.end()) {
    const auto [h, w] = output_size(channels_, height, width);
    if (sized_layers_.size() == kMostSizes) sized_layers_.pop_back();
    found = sized_layers_.insert(sized_layers_.end(), std::make_shared<SizedLayer>(*this, height, width, h, w, spikes));
  }
  std::rotate(sized_layers_.begin(), found, found + 1);
  return sized_layers_.front();
}

void StandaloneLayer::run(const float* x, int64_t timesteps, int64_t images, int height, int width, float* y,
                          const Workers& workers) const {
  if (timesteps == 0 || images == 0) return;
  require(timesteps <= kMostTimesteps, "more than " + std::to_string(kMostTimesteps) + " timesteps");
  const int steps = int(timesteps), positions = height * width, words = words_of(channels_);
  const auto [out_height, out_width] = output_size(channels_, height, width);
  const size_t in_size = size_t(channels_) * positions, out_positions = size_t(out_height) * out_width;
  const size_t out_size = out_positions * outputs_;
  const size_t largest = std::max(size_t(positions) * padded(channels_), out_positions * padded(outputs_)) * steps;
  const int group = int(std::clamp<int64_t>(kTogether / largest, 1, images));
  Borrowed workspace(*pool_);
  workspace->reals.resize(2);
  workspace->spikes.resize(2);
  workspace->scratch.resize(std::max(workspace->scratch.size(), size_t(workers.workers())));

  bool spikes = channels_ <= kMostEvents;
  for (int64_t first = 0; first < images; first += group) {
    const int count = int(std::min<int64_t>(group, images - first)), planes = count * steps;
    // In the engine the timesteps of an image are adjacent, in the host the images of a timestep.
    const auto place = [&](int plane) { return size_t(plane % steps) * images + first + plane / steps; };
    if (spikes) {
      uint64_t* to = workspace->spikes[0].reserve(size_t(planes) * positions * words);
      std::atomic<bool> real{false};
      workers.for_each(planes * words, [&](int task, int) {
        if (real.load(std::memory_order_relaxed)) return;
        const int plane = task / words, word = task % words, c = word * kWord;
        if (!pack(x + place(plane) * in_size + size_t(c) * positions, std::min(kWord, channels_ - c), positions,
                  to + size_t(plane) * positions * words + word, words))
          real = true;
      });
      spikes = !real;  // and so are the images after them
    }
    const std::shared_ptr<SizedLayer> sized = layer_for(height, width, spikes);
    const Context context{sized->values, kernels_, *workspace, count, steps, 0, steps};
    if (!spikes) {
      float* to = workspace->reals[0].reserve(planes * sized->in().plane());
      workers.for_each(planes, [&](int i, int) {
        transpose(x + place(i) * in_size, positions, channels_, positions, to + i * sized->in().plane(),
                  sized->in().stride());
      });
    }
    const float* from = workspace->reals[1].reserve(planes * sized->out().plane());
    sized->layer.reserve(context);
    const bool worth = sized->layer.work() * planes > kWorthThreads;
    for (int phase = 0; phase < sized->layer.phases(); ++phase) {
      const int tasks = sized->layer.tasks(context, phase);
      const auto run = [&](int task, int worker) {
        sized->layer.run(context, phase, task, workspace->scratch[worker]);
      };
      if (worth)
        workers.for_each(tasks, run);
      else
        for (int task = 0; task < tasks; ++task) run(task, 0);
    }
    workers.for_each(planes, [&](int i, int) {
      transpose(from + i * sized->out().plane(), sized->out().stride(), int(out_positions), outputs_,
                y + place(i) * out_size, out_positions);
    });
  }
}

void fire_plain(const LifParameters& lif, const float* x, int64_t timesteps, size_t step, size_t count, float* spikes) {
  for (size_t first = 0; first < count; first += kNeurons)
    fire_rows(lif, x + first, timesteps, step, std::min<size_t>(kNeurons, count - first), spikes + first);
}

}  // namespace spiketicket
