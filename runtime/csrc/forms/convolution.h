// A layer with weights as an operation: which forms suit it, and the one that was chosen. A linear layer is a
// convolution whose kernel is the whole image.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "forms/form.h"

namespace spiketicket {

// How a layer is computed (docs/engine.md). `events`: add the weight row of every spike; `sparse_events`: only the row's
// nonzeros; `events_int16`: add rows of whole numbers; `masks`: add every weight where its input fires, 16 positions at once; `tables`: look up the spikes of 4
// channels at 16 positions.
enum class Method { events, events_int16, sparse_events, masks, tables };

struct Choice {
  Method method = Method::events;
  int tile = 16;  // positions whose lists of events are made at once

  bool operator==(const Choice&) const = default;
};

std::string name_of(const Choice& choice);
Choice choice_named(const std::string& name);  // throws std::invalid_argument

class Convolution : public Operation {
 public:
  explicit Convolution(Layer layer);

  // What suits the layer, the best guess first. The CSR arrays must live until forget_csr().
  std::vector<Choice> choices() const;
  void choose(const Choice& choice);
  void forget_csr();
  const Choice& chosen() const { return choice_; }
  size_t weight_bytes() const { return form_->bytes(); }

  int phases() const override { return form_->phases(); }
  int tasks(const Context& context, int phase) const override { return form_->tasks(context, phase); }
  void run(const Context& context, int phase, int task, Scratch& scratch) const override {
    form_->run(context, phase, task, scratch);
  }
  void reserve(const Context& context) const override { form_->reserve(context); }
  double work() const override { return estimate(choice_); }
  size_t state() const override { return form_->state(); }
  void place(int output, int index) override;

 private:
  double estimate(const Choice& choice) const;

  Layer layer_;
  double nonzeros_ = 0, dense_ = 0;
  Choice choice_;
  std::unique_ptr<Form> form_;
};

}  // namespace spiketicket
