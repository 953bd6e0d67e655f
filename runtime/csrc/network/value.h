// The values of a network in memory, and the operations that compute them.
//
// Spikes are packed over channels: 64 channels of one position share a word, bit c % 64 of word
// [image][plane][position][c / 64]. Real values are floats [image][plane][position][channel], with the number of
// channels padded to a multiple of 16. A timed value has one plane per timestep, a static value has a single plane.
//
// Periodic spikes are those of neurons with a hard reset and a constant current. Such a neuron fires first at some
// timestep d and then at every multiple of d. Plane d - 1 holds the neurons whose first spike is at d, so that every
// neuron is in one plane at most. The spikes at timestep t are the union of the planes of the divisors of t.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/kernels.h"

namespace spiketicket {

inline int words_of(int channels) { return (channels + kWord - 1) / kWord; }
inline int padded(int channels) { return (channels + kLanes - 1) / kLanes * kLanes; }

struct Value {
  int channels = 1, height = 1, width = 1;
  bool spikes = false;
  bool timed = false;     // whether it differs from timestep to timestep
  bool periodic = false;  // whether planes are periods instead of timesteps
  int storage = 0;        // index of its buffer

  int positions() const { return height * width; }
  size_t stride() const { return spikes ? words_of(channels) : padded(channels); }  // elements per position
  size_t plane() const { return positions() * stride(); }
};

// Uninitialised memory that only grows.
template <class Element>
class Buffer {
 public:
  Element* reserve(size_t count) {
    if (size_ < count + kSlack) {
      data_.reset();
      size_ = 0;  // remains 0 if the allocation throws
      data_ = std::unique_ptr<Element[]>(new Element[count + kSlack]);
      size_ = count + kSlack;
    }
    return data_.get();
  }
  Element* zeroed(size_t count) {
    std::memset(static_cast<void*>(reserve(count)), 0, (count + kSlack) * sizeof(Element));
    return data_.get();
  }
  Element* data() const { return data_.get(); }
  size_t bytes() const { return size_ * sizeof(Element); }

 private:
  std::unique_ptr<Element[]> data_;
  size_t size_ = 0;
};

// The memory that one thread needs for its tasks.
struct Scratch {
  Buffer<Tap> taps;
  Buffer<Run> runs;
  Buffer<uint32_t> rows, ends;
  Buffer<float> current, summed, potential;
  Buffer<uint64_t> fired, bits, valid;
  Buffer<uint16_t> residuals;
};

// The memory that one operation at a time needs, shared by its tasks.
struct Arena {
  Buffer<EventSpan> spans;
  Buffer<uint16_t> events;
  Buffer<uint8_t> planes;
  Buffer<uint16_t> masks;
  Buffer<uint64_t> fired;
};

// The memory for the images of one run.
struct Workspace {
  std::vector<Buffer<float>> reals;  // per storage; only one of reals and spikes is used
  std::vector<Buffer<uint64_t>> spikes;
  std::vector<Buffer<float>> potentials;  // per operation; used where state outlives a run
  std::vector<Buffer<uint64_t>> seen;     // per operation: neurons that have fired, likewise
  std::vector<Scratch> scratch;           // per thread
  Arena arena;
};

struct Context {
  const std::vector<Value>& values;
  const Kernels& kernels;
  Workspace& workspace;
  int images;
  int timesteps;          // of this call
  int before = 0;         // timesteps of earlier calls, whose potentials carry over
  int horizon = 0;        // timesteps of all calls
  bool stateful = false;  // one timestep per call

  int planes(const Value& v) const { return v.periodic ? horizon : v.timed ? timesteps : 1; }
  float* reals(const Value& v, int image, int plane = 0) const {
    return workspace.reals[v.storage].data() + (size_t(image) * planes(v) + plane) * v.plane();
  }
  uint64_t* spikes(const Value& v, int image, int plane = 0) const {
    return workspace.spikes[v.storage].data() + (size_t(image) * planes(v) + plane) * v.plane();
  }
};

// One operation of a network. Its phases run one after the other. The tasks of a phase write disjoint parts of memory
// and may run at the same time.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual int phases() const { return 1; }
  virtual int tasks(const Context& context, int phase) const = 0;
  virtual void run(const Context& context, int phase, int task, Scratch& scratch) const = 0;
  virtual void reserve(const Context&) const {}  // reserves memory in the arena and the scratches
  virtual double work() const = 0;               // estimated nanoseconds per image and timestep
  virtual size_t state() const { return 0; }     // number of potentials per image

  // Sets which value it computes, and its index in the order of execution.
  virtual void place(int output, int index) {
    this->output = output;
    this->index = index;
  }
  int output = 0, index = 0;
};

}  // namespace spiketicket
