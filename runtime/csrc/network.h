// A network as the engine runs it: values in memory, operations on one image over all timesteps.
//
// Spikes are packed: the spikes of 4 channels at one position share a byte, bit c % 4 of byte
// [t][c / 4][position]. Real values are floats [t][c][position]. Where a position lies within its
// plane is the value's Layout. The caller (runtime/native.py) has checked all shapes and indices.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "kernels.h"
#include "layout.h"
#include "pool.h"

namespace spiketicket {

// Floats or bytes that only grow, zeroed when they do, with room for a kernel's last tile.
template <class Element>
class Buffer {
 public:
  Element* reserve(size_t count) {
    if (data_.size() < count + kTile) data_.assign(count + kTile, Element{});
    return data_.data();
  }
  void clear() { std::fill(data_.begin(), data_.end(), Element{}); }
  Element* data() { return data_.data(); }

 private:
  std::vector<Element> data_;
};

struct Value {
  int channels = 1, height = 1, width = 1;
  bool spikes = false;
  bool timed = false;        // one set of planes per timestep; otherwise one in all
  bool repeated = false;     // a static value read as a timed one
  bool layout_open = false;  // no reader has asked for a layout yet
  int storage = 0;           // index of its buffer; a repeated value shares its source's
  Layout layout = {};

  int size() const { return channels * height * width; }  // of one timestep, unpadded
  int planes() const { return spikes ? (channels + 3) / 4 : channels; }
  size_t per_timestep() const { return size_t(planes()) * layout.plane; }
  size_t step() const { return timed && !repeated ? per_timestep() : 0; }  // elements between timesteps
};

// Memory for one output plane at a time.
struct Scratch {
  Buffer<float> current, potential, plane;
  Buffer<uint8_t> fired;

  void reserve(int timesteps, size_t positions);
};

// Memory for one image.
struct Workspace {
  std::vector<Buffer<float>> reals;        // per storage; only one of reals and spikes is used
  std::vector<Buffer<uint8_t>> spikes;
  std::vector<Buffer<float>> potentials;   // per operation; used where state outlives a run
  std::vector<Scratch> scratch;            // per thread that works on the image
};

struct Context {
  const std::vector<Value>& values;
  const Kernels& kernels;
  Workspace& workspace;
  Scratch& scratch;
  int timesteps;
  bool stateful;  // potentials carry over from one call to the next

  float* reals(const Value& v) const { return workspace.reals[v.storage].data(); }
  uint8_t* spikes(const Value& v) const { return workspace.spikes[v.storage].data(); }
  int steps(const Value& v) const { return v.timed && !v.repeated ? timesteps : 1; }
};

// One operation; its tasks write disjoint parts of the output and may run at the same time.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual int tasks() const = 0;
  virtual double work() const = 0;  // rough nanoseconds per timestep, to decide whether threads pay
  virtual size_t positions() const = 0;  // of the largest plane in scratch
  virtual void run(const Context& context, int task) const = 0;
  int output = 0;  // value
  int index = 0;   // place in the network
};

struct CsrView {
  std::span<const float> values;
  std::span<const uint32_t> indices;
  std::span<const int32_t> indptr;
};

class Network {
 public:
  explicit Network(int threads);

  // Building, in order of execution; each returns the id of its output value.
  int input(int channels, int height, int width);
  int repeat(int input);
  int conv(int input, const Geometry& geometry, int groups, int rows, const CsrView& weight,
           std::span<const float> bias, std::optional<LifParameters> lif);
  int lif(int input, const LifParameters& lif);
  int max_pool(int input, const Geometry& geometry);
  int avg_pool(int input, const Geometry& geometry);
  int add(int a, int b);
  void finish(int output);

  const Value& value(int id) const { return values_[id]; }
  const char* isa() const { return kernels_.isa; }

  // x: [images][C][H][W]; logits: [timesteps][images][classes].
  // `spikes`: (value, uint8 [timesteps][images][C][H][W]) to record, possibly none.
  void run(const float* x, int images, int timesteps, float* logits,
           std::span<const std::pair<int, uint8_t*>> spikes);

  // One timestep after the other: begin() once, then step() as often as wanted, logits [images][classes].
  using State = std::vector<std::unique_ptr<Workspace>>;
  State begin(const float* x, int images);
  void step(State& state, float* logits);

 private:
  enum class Phase { all, fixed, timed };

  int define(Value value);
  int append(std::unique_ptr<Operation> operation, Value output);
  int arranged(int input, const Geometry& geometry);
  void prepare(Workspace& workspace, int timesteps, bool stateful, int threads) const;
  void load(Workspace& workspace, const float* x) const;
  void execute(Workspace& workspace, int timesteps, bool stateful, Phase phase, bool threads);
  void collect(Workspace& workspace, int timesteps, float* logits, size_t stride) const;
  void record(Workspace& workspace, int timesteps, int value, uint8_t* out, size_t stride) const;
  std::unique_ptr<Workspace> borrow();
  void give_back(std::unique_ptr<Workspace> workspace);

  const Kernels& kernels_;
  Pool pool_;
  std::vector<Value> values_;
  std::vector<std::unique_ptr<Operation>> operations_;
  int output_ = 0;
  size_t largest_plane_ = 0;
  std::mutex spare_mutex_;
  std::vector<std::unique_ptr<Workspace>> spare_;
};

// ops.cpp
std::unique_ptr<Operation> make_arrange(const std::vector<Value>& values, int input);
std::unique_ptr<Operation> make_conv(const std::vector<Value>& values, int input, const Geometry& geometry, int groups,
                                     int rows, const CsrView& weight, std::span<const float> bias,
                                     std::optional<LifParameters> lif, int out_height, int out_width);
std::unique_ptr<Operation> make_lif(const std::vector<Value>& values, int input, const LifParameters& lif);
std::unique_ptr<Operation> make_pool(const std::vector<Value>& values, int input, const Geometry& geometry, bool max,
                                     int out_height, int out_width);
std::unique_ptr<Operation> make_add(const std::vector<Value>& values, int a, int b);

}  // namespace spiketicket
