// Builds a network and chooses the kernels of its layers. network_run.cpp runs it.
#include "network/network.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "network/clock.h"

namespace spiketicket {
namespace {

constexpr int kRepeats = 3;  // runs per measurement, of which the fastest counts

int window(int size, int kernel, int stride, int before, int after, int dilation) {
  return (size + before + after - dilation * (kernel - 1) - 1) / stride + 1;
}

int out_height(const Geometry& g, const Value& v) {
  return window(v.height, g.kernel_y, g.stride_y, g.top, g.bottom, g.dilation_y);
}

int out_width(const Geometry& g, const Value& v) {
  return window(v.width, g.kernel_x, g.stride_x, g.left, g.right, g.dilation_x);
}

}  // namespace

Network::Network(int threads, bool int16) : kernels_(select_kernels()), int16_(int16), pool_(threads) {}

int Network::define(Value value) {
  value.storage = int(values_.size());
  values_.push_back(value);
  unrolled_.push_back(0);
  operation_of_.push_back(-1);
  return value.storage;
}

int Network::append(std::unique_ptr<Operation> operation, Value output) {
  operation->place(define(output), int(operations_.size()));
  operation_of_.back() = operation->index;
  plans_.emplace_back();
  operations_.push_back(std::move(operation));
  return operations_.back()->output;
}

int Network::input(int channels, int height, int width, bool timed) {
  return define({.channels = channels, .height = height, .width = width, .timed = timed});
}

// Returns the value itself or, if it holds periodic spikes, a value with the spikes of every timestep.
int Network::unrolled(int value) {
  if (!values_[value].periodic) return value;
  if (unrolled_[value] == 0) {
    Value out = values_[value];
    out.periodic = false;
    const int id = append(make_unroll(values_, value), out);
    unrolled_[value] = id;
  }
  return unrolled_[value];
}

int Network::layer(std::vector<Source> sources, std::vector<int> residuals, int outputs, std::span<const float> bias,
                   std::optional<LifParameters> lif) {
  if (sources.size() > 1)
    for (Source& source : sources) source.value = unrolled(source.value);
  for (int& residual : residuals) residual = unrolled(residual);
  const Value& in = values_[sources.front().value];
  const int height = out_height(sources.front().geometry, in), width = out_width(sources.front().geometry, in);
  const Value out{.channels = outputs, .height = height, .width = width, .spikes = lif.has_value(), .timed = in.timed};
  return append(std::make_unique<Convolution>(Layer{values_,
                                                    std::move(sources),
                                                    std::move(residuals),
                                                    outputs,
                                                    height,
                                                    width,
                                                    {bias.begin(), bias.end()},
                                                    lif,
                                                    int16_}),
                out);
}

int Network::neurons(int input, const LifParameters& lif) {
  input = unrolled(input);
  const Value& in = values_[input];
  return append(make_neurons(values_, input, lif), {.channels = in.channels,
                                                    .height = in.height,
                                                    .width = in.width,
                                                    .spikes = true,
                                                    .timed = true,
                                                    .periodic = !in.timed && !lif.soft});
}

int Network::integrators(int input, const Leak& leak) {
  input = unrolled(input);
  const Value& in = values_[input];
  return append(make_integrators(values_, input, leak),
                {.channels = in.channels, .height = in.height, .width = in.width, .timed = true});
}

int Network::by_window(int input, const Geometry& g, bool max) {
  input = unrolled(input);
  const Value& in = values_[input];
  const int height = out_height(g, in), width = out_width(g, in);
  return append(
      make_pooling(values_, input, g, max, height, width),
      {.channels = in.channels, .height = height, .width = width, .spikes = in.spikes && max, .timed = in.timed});
}

int Network::max_pool(int input, const Geometry& g) { return by_window(input, g, true); }

int Network::avg_pool(int input, const Geometry& g) { return by_window(input, g, false); }

int Network::add(int a, int b) {
  a = unrolled(a);
  b = unrolled(b);
  const Value& first = values_[a];
  return append(make_addition(values_, a, b), {.channels = first.channels,
                                               .height = first.height,
                                               .width = first.width,
                                               .timed = first.timed || values_[b].timed});
}

int Network::conjunction(int a, int b, bool negated) {
  a = unrolled(a);
  b = unrolled(b);
  return append(make_conjunction(values_, a, b, negated), values_[a]);
}

int Network::concatenation(std::vector<int> parts) {
  for (int& part : parts) part = unrolled(part);
  Value out = values_[parts.front()];
  out.channels = 0;
  for (const int part : parts) {
    out.channels += values_[part].channels;
    out.spikes &= values_[part].spikes;
    out.timed |= values_[part].timed;
  }
  return append(make_concatenation(values_, std::move(parts)), out);
}

int Network::flat(int input) {
  input = unrolled(input);
  Value out = values_[input];
  out.channels *= out.positions();
  out.height = out.width = 1;
  return append(make_flat(values_, input), out);
}

void Network::finish(int output) { output_ = unrolled(output); }

Convolution& Network::convolution(int value) const {
  auto* layer = dynamic_cast<Convolution*>(operations_[operation_of_[value]].get());
  if (layer == nullptr) throw std::invalid_argument("no layer with weights");
  return *layer;
}

std::vector<std::string> Network::choices(int value) const {
  std::vector<std::string> names;
  for (const Choice& choice : convolution(value).choices()) names.push_back(name_of(choice));
  return names;
}

void Network::choose(int value, const std::string& name) {
  Convolution& layer = convolution(value);
  layer.choose(choice_named(name));
  plans_[layer.index].decided = true;
}

void Network::guess() {
  for (const auto& operation : operations_)
    if (auto* layer = dynamic_cast<Convolution*>(operation.get()); layer != nullptr && !plans_[layer->index].decided) {
      layer->choose(layer->choices().front());
      plans_[layer->index].decided = true;
    }
}

// Layers are measured in order of execution, so that each is measured on the spikes that it receives.
void Network::measure(const float* x, int images, int timesteps) {
  Workspace workspace;
  workspace.scratch.resize(1);
  const Context context{values_, kernels_, workspace, images, timesteps, 0, timesteps};
  reserve_values(context);
  load(context, x, 0, images);
  for (const auto& operation : operations_) {
    const auto run = [&] {
      for (int phase = 0; phase < operation->phases(); ++phase)
        for (int task = 0; task < operation->tasks(context, phase); ++task)
          operation->run(context, phase, task, workspace.scratch[0]);
    };
    auto* convolution = dynamic_cast<Convolution*>(operation.get());
    ExecutionPlan& plan = plans_[operation->index];
    if (convolution != nullptr && !plan.decided) {
      double best = std::numeric_limits<double>::infinity();
      Choice fastest;
      for (const Choice& choice : convolution->choices()) {
        convolution->choose(choice);
        convolution->reserve(context);
        double least = std::numeric_limits<double>::infinity();
        for (int repeat = 0; repeat < kRepeats; ++repeat) {
          const auto begin = Clock::now();
          run();
          least = std::min(least, nanoseconds(begin));
        }
        plan.measured.emplace_back(name_of(choice), least * 1e-6);
        if (least < best) best = least, fastest = choice;
      }
      if (!(convolution->chosen() == fastest)) convolution->choose(fastest);
      plan.decided = true;
    }
    operation->reserve(context);
    run();
  }
}

void Network::planned() {
  work_ = 0;
  for (const auto& operation : operations_) {
    work_ += operation->work();
    if (auto* layer = dynamic_cast<Convolution*>(operation.get())) layer->forget_csr();
  }
}

std::string Network::chosen(int value) const { return name_of(convolution(value).chosen()); }

std::vector<std::pair<std::string, double>> Network::measured(int value) const {
  return plans_[convolution(value).index].measured;
}

size_t Network::weight_bytes(int value) const { return convolution(value).weight_bytes(); }

int Network::operation_of(int value) const { return operation_of_[value]; }

}  // namespace spiketicket
