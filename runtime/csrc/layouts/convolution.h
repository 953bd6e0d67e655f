// A layer with weights as an operation: the kernels that suit it, and the one that was chosen. A linear layer is a
// convolution whose kernel is the whole image.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "layouts/memory_layout.h"

namespace spiketicket {

// How a layer is computed (docs/engine.md). `events` adds the weight row of every spike, `sparse_events` only the
// nonzeros of that row, and `events_int16` rows of integers. `masks` adds every weight where its input fires, at 16
// positions at once, and `tables` looks up the sums of 4 channels at 16 positions at once.
enum class Method { events, events_int16, sparse_events, masks, tables };

struct Choice {
  Method method = Method::events;
  int tile = 16;  // number of positions whose weight rows are listed at once

  bool operator==(const Choice&) const = default;
};

std::string name_of(const Choice& choice);
// Throws std::invalid_argument if no kernel has this name.
Choice choice_named(const std::string& name);

class Convolution : public Operation {
 public:
  explicit Convolution(Layer layer);

  // Returns the kernels that suit the layer, the best guess first. The caller must keep the CSR arrays
  // until forget_csr().
  std::vector<Choice> choices() const;
  void choose(const Choice& choice);
  void forget_csr();
  const Choice& chosen() const { return choice_; }
  size_t weight_bytes() const { return memory_layout_->bytes(); }

  int phases() const override { return memory_layout_->phases(); }
  int tasks(const Context& context, int phase) const override { return memory_layout_->tasks(context, phase); }
  void run(const Context& context, int phase, int task, Scratch& scratch) const override {
    memory_layout_->run(context, phase, task, scratch);
  }
  void reserve(const Context& context) const override { memory_layout_->reserve(context); }
  double work() const override { return estimate(choice_); }
  size_t state() const override { return memory_layout_->state(); }
  void place(int output, int index) override;

 private:
  double estimate(const Choice& choice) const;

  Layer layer_;
  double nonzeros_ = 0, dense_ = 0;
  Choice choice_;
  std::unique_ptr<MemoryLayout> memory_layout_;
};

}  // namespace spiketicket
