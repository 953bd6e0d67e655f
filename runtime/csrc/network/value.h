// Values in memory, and the operations between them.
//
// Spikes are packed over channels: 64 channels of one position share a word, bit c % 64 of word
// [image][plane][position][c / 64]. Real values are floats [image][plane][position][channel], the channels
// padded to a multiple of 16. A timed value has one plane per timestep, a static one a single plane.
//
// Periodic spikes are those of a neuron with a hard reset and a constant current: it fires first at some
// timestep d and then at every multiple of d. Plane d - 1 holds the neurons whose first spike is at d, so
// that every neuron is in one plane at most; the spikes at t are the planes of t's divisors together.
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
  bool timed = false;     // differs from timestep to timestep
  bool periodic = false;  // spikes by their period
  int storage = 0;        // index of its buffer; a repeated value shares its source's

  int positions() const { return height * width; }
  size_t stride() const { return spikes ? words_of(channels) : padded(channels); }  // elements per position
  size_t plane() const { return positions() * stride(); }
};

// Memory that only grows and is not touched before it is used.
template <class Element>
class Buffer {
 public:
  Element* reserve(size_t count) {
    if (size_ < count + kSlack) {
      data_.reset();
      size_ = 0;  // for good if there is no memory
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

// Memory of one thread, for the part of an operation that it works on.
struct Scratch {
  Buffer<Tap> taps;
  Buffer<Run> runs;
  Buffer<uint32_t> rows, ends;
  Buffer<float> current, summed, potential;
  Buffer<uint64_t> fired, bits, valid;
  Buffer<uint16_t> residuals;
};

// Memory of one operation at a time, shared by the threads that work on it.
struct Arena {
  Buffer<EventSpan> spans;
  Buffer<uint16_t> events;
  Buffer<uint8_t> planes;
  Buffer<uint16_t> masks;
  Buffer<uint64_t> fired;
};

// Memory for the images of one run.
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

// One operation. Its phases run one after the other; the tasks of a phase write disjoint parts of memory
// and may run at the same time.
class Operation {
 public:
  virtual ~Operation() = default;
  virtual int phases() const { return 1; }
  virtual int tasks(const Context& context, int phase) const = 0;
  virtual void run(const Context& context, int phase, int task, Scratch& scratch) const = 0;
  virtual void reserve(const Context&) const {}  // the arena's memory
  virtual double work() const = 0;               // rough nanoseconds per image and timestep
  virtual size_t state() const { return 0; }     // potentials per image

  // Which value it computes, and its place in the network.
  virtual void place(int output, int index) {
    this->output = output;
    this->index = index;
  }
  int output = 0, index = 0;
};

}  // namespace spiketicket
