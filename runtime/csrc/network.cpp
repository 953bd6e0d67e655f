#include "network.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <stdexcept>

namespace spiketicket {
namespace {

constexpr double kWorthThreads = 100'000;  // nanoseconds of work; waking a thread costs 10 to 50 microseconds
constexpr int kMostImages = 8;             // that one thread computes layer by layer: their weights are read once
constexpr size_t kMostElements = size_t(1) << 26;  // of one value of these images
constexpr int kRepeats = 3;                // of a measurement, the fastest counts

using Clock = std::chrono::steady_clock;

double nanoseconds(Clock::time_point begin) { return std::chrono::duration<double, std::nano>(Clock::now() - begin).count(); }

int window(int size, int kernel, int stride, int before, int after, int dilation) {
  return (size + before + after - dilation * (kernel - 1) - 1) / stride + 1;
}

int out_height(const Geometry& g, const Value& v) {
  return window(v.height, g.kernel_y, g.stride_y, g.top, g.bottom, g.dilation_y);
}

int out_width(const Geometry& g, const Value& v) {
  return window(v.width, g.kernel_x, g.stride_x, g.left, g.right, g.dilation_x);
}

// One timestep for every number of divisors that a timestep up to `timesteps` has.
std::vector<int> one_per_divisor_count(int timesteps) {
  std::vector<int> divisors(timesteps + 1, 0), found;
  for (int d = 1; d <= timesteps; ++d)
    for (int t = d; t <= timesteps; t += d) ++divisors[t];
  std::vector<bool> seen(timesteps + 1, false);
  for (int t = 1; t <= timesteps; ++t)
    if (!seen[divisors[t]]) {
      seen[divisors[t]] = true;
      found.push_back(t);
    }
  return found;
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

int Network::input(int channels, int height, int width) {
  return define({.channels = channels, .height = height, .width = width});
}

// The value itself, or, of periodic spikes, the spikes of every timestep.
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
  return append(std::make_unique<Convolution>(Layer{values_, std::move(sources), std::move(residuals), outputs, height,
                                                    width, {bias.begin(), bias.end()}, lif, int16_}),
                out);
}

int Network::neurons(int input, const LifParameters& lif) {
  input = unrolled(input);
  const Value& in = values_[input];
  return append(make_neurons(values_, input, lif),
                {.channels = in.channels, .height = in.height, .width = in.width, .spikes = true, .timed = true,
                 .periodic = !in.timed && !lif.soft});
}

int Network::by_window(int input, const Geometry& g, bool max) {
  input = unrolled(input);
  const Value& in = values_[input];
  const int height = out_height(g, in), width = out_width(g, in);
  return append(make_pooling(values_, input, g, max, height, width),
                {.channels = in.channels, .height = height, .width = width, .spikes = in.spikes && max, .timed = in.timed});
}

int Network::max_pool(int input, const Geometry& g) { return by_window(input, g, true); }

int Network::avg_pool(int input, const Geometry& g) { return by_window(input, g, false); }

int Network::add(int a, int b) {
  a = unrolled(a);
  b = unrolled(b);
  const Value& first = values_[a];
  return append(make_addition(values_, a, b), {.channels = first.channels, .height = first.height, .width = first.width,
                                               .timed = first.timed || values_[b].timed});
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

// In order of execution, so that every layer is measured on the spikes that it gets.
void Network::measure(const float* x, int images, int timesteps) {
  Workspace workspace;
  workspace.scratch.resize(1);
  const Context context{values_, kernels_, workspace, images, timesteps, 0, timesteps};
  reserve_values(context);
  load(context, x);
  for (const auto& operation : operations_) {
    const auto run = [&] {
      for (int phase = 0; phase < operation->phases(); ++phase)
        for (int task = 0; task < operation->tasks(context, phase); ++task)
          operation->run(context, phase, task, workspace.scratch[0]);
    };
    auto* convolution = dynamic_cast<Convolution*>(operation.get());
    Plan& plan = plans_[operation->index];
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

void Network::reserve_values(const Context& context) const {
  Workspace& workspace = context.workspace;
  workspace.reals.resize(values_.size());
  workspace.spikes.resize(values_.size());
  for (const Value& v : values_) {
    const size_t count = size_t(context.images) * context.planes(v) * v.plane();
    if (v.spikes)
      workspace.spikes[v.storage].reserve(count);
    else
      workspace.reals[v.storage].reserve(count);
  }
}

void Network::prepare(const Context& context) const {
  Workspace& workspace = context.workspace;
  reserve_values(context);
  for (const auto& operation : operations_) operation->reserve(context);
  if (!context.stateful) return;
  workspace.potentials.resize(operations_.size());
  workspace.seen.resize(operations_.size());
  for (const auto& operation : operations_) {
    const Value& out = values_[operation->output];
    workspace.potentials[operation->index].zeroed(size_t(context.images) * operation->state());
    if (out.periodic) workspace.seen[operation->index].zeroed(size_t(context.images) * out.plane());
  }
}

void Network::load(const Context& context, const float* x) const {
  const Value& in = values_.front();
  const size_t area = in.positions(), stride = in.stride();
  for (int image = 0; image < context.images; ++image) {
    float* to = context.reals(in, image);
    std::fill(to, to + in.plane(), 0.0f);
    for (int c = 0; c < in.channels; ++c, x += area)
      for (size_t p = 0; p < area; ++p) to[p * stride + c] = x[p];
  }
}

void Network::execute(const Context& context, Which which, Team& team, int worker) const {
  for (const auto& operation : operations_) {
    const bool fixed = !values_[operation->output].timed;  // computed once per input
    if (which != Which::all && fixed != (which == Which::fixed)) continue;
    for (int phase = 0; phase < operation->phases(); ++phase)
      team.for_each(operation->tasks(context, phase), [&](int task) {
        operation->run(context, phase, task, context.workspace.scratch[worker]);
      });
  }
}

void Network::collect(const Context& context, float* logits, size_t timestep, size_t image_step) const {
  const Value& v = values_[output_];
  for (int image = 0; image < context.images; ++image)
    for (int t = 0; t < context.timesteps; ++t) {
      float* to = logits + t * timestep + image * image_step;
      for (int c = 0; c < v.channels; ++c)
        for (int p = 0; p < v.positions(); ++p) {
          const int plane = v.timed ? t : 0;
          if (v.spikes)
            *to++ = float(context.spikes(v, image, plane)[p * v.stride() + c / kWord] >> (c % kWord) & 1);
          else
            *to++ = context.reals(v, image, plane)[p * v.stride() + c];
        }
    }
}

void Network::record(const Context& context, int value, uint8_t* out, size_t timestep, size_t image_step) const {
  const Value& v = values_[value];
  for (int image = 0; image < context.images; ++image)
    for (int t = 0; t < context.timesteps; ++t) {
      uint8_t* to = out + t * timestep + image * image_step;
      for (int c = 0; c < v.channels; ++c)
        for (int p = 0; p < v.positions(); ++p) {
          const size_t at = p * v.stride() + c / kWord;
          uint64_t word = 0;
          if (!v.periodic)
            word = context.spikes(v, image, t)[at];
          else
            for (int period = 1; period <= t + 1; ++period)
              if ((t + 1) % period == 0) word |= context.spikes(v, image, period - 1)[at];
          *to++ = uint8_t(word >> (c % kWord) & 1);
        }
    }
}

bool Network::worth_threads(int images, int timesteps) const {
  return pool_.size() > 1 && work_ * images * timesteps >= kWorthThreads;
}

// Runs body(team, worker) on `members` threads.
void Network::together(int members, const std::function<void(Team&, int)>& body) {
  Team team(members);
  if (members > 1 && pool_.run(members, [&](int worker) { body(team, worker); })) return;
  Team alone(1);
  body(alone, 0);
}

void Network::run(const float* x, int images, int timesteps, float* logits,
                  std::span<const std::pair<int, uint8_t*>> spikes) {
  const size_t classes = values_[output_].channels * size_t(values_[output_].positions());
  const size_t input_size = values_.front().channels * size_t(values_.front().positions());
  const int threads = worth_threads(images, timesteps) ? pool_.size() : 1;
  // Enough images: one group of them per thread, without waiting for each other. Otherwise the threads share each group.
  const bool share = images < threads;
  size_t largest = 1;
  for (const Value& v : values_) largest = std::max(largest, v.plane() * (v.timed ? timesteps : 1));
  const int fits = int(std::clamp(kMostElements / largest, size_t(1), size_t(kMostImages)));
  const int group = std::min(share ? images : (images + threads - 1) / threads, fits);
  const int groups = (images + group - 1) / group;
  std::vector<std::unique_ptr<Workspace>> workspaces(share ? 1 : threads);
  for (auto& workspace : workspaces) {
    workspace = workspaces_.borrow();
    workspace->scratch.resize(std::max(workspace->scratch.size(), size_t(share ? threads : 1)));
    prepare({values_, kernels_, *workspace, group, timesteps, 0, timesteps});
  }
  const auto run_group = [&](int index, Workspace& workspace, Team& team, int worker) {
    const int first = index * group;
    const Context context{values_, kernels_, workspace, std::min(group, images - first), timesteps, 0, timesteps};
    if (worker == 0) load(context, x + first * input_size);
    team.for_each(0, [](int) {});
    execute(context, Which::all, team, worker);
    if (worker != 0) return;
    collect(context, logits + first * classes, images * classes, classes);
    for (const auto& [value, out] : spikes) {
      const size_t size = values_[value].channels * size_t(values_[value].positions());
      record(context, value, out + first * size, images * size, size);
    }
  };
  if (share) {
    for (int index = 0; index < groups; ++index)
      together(threads, [&](Team& team, int worker) { run_group(index, *workspaces[0], team, worker); });
  } else {
    std::atomic<int> next{0};
    together(threads, [&](Team&, int worker) {
      Team alone(1);
      for (int index = next++; index < groups; index = next++) run_group(index, *workspaces[worker], alone, 0);
    });
  }
  for (auto& workspace : workspaces) workspaces_.give_back(std::move(workspace));
}

std::vector<double> Network::time_operations(const float* x, int images, int timesteps) {
  const int threads = pool_.size();
  std::unique_ptr<Workspace> workspace = workspaces_.borrow();
  workspace->scratch.resize(std::max(workspace->scratch.size(), size_t(threads)));
  const Context context{values_, kernels_, *workspace, images, timesteps, 0, timesteps};
  prepare(context);
  load(context, x);
  std::vector<double> times(operations_.size());
  together(threads, [&](Team& team, int worker) {
    for (const auto& operation : operations_) {
      const auto begin = Clock::now();
      for (int phase = 0; phase < operation->phases(); ++phase)
        team.for_each(operation->tasks(context, phase),
                      [&](int task) { operation->run(context, phase, task, workspace->scratch[worker]); });
      if (worker == 0) times[operation->index] = nanoseconds(begin) * 1e-6;
    }
  });
  workspaces_.give_back(std::move(workspace));
  return times;
}

Network::State Network::begin(const float* x, int images, int timesteps) {
  State state{std::make_unique<Workspace>(), images, timesteps, 0};
  state.workspace->scratch.resize(pool_.size());
  const Context context{values_, kernels_, *state.workspace, images, 1, 0, timesteps, true};
  prepare(context);
  // A timestep reads the planes of all its divisors: some need more memory than the first.
  for (const int t : one_per_divisor_count(timesteps)) {
    const Context later{values_, kernels_, *state.workspace, images, 1, t - 1, timesteps, true};
    for (const auto& operation : operations_) operation->reserve(later);
  }
  load(context, x);
  Team alone(1);
  execute(context, Which::fixed, alone, 0);
  return state;
}

void Network::step(State& state, float* logits) {
  if (state.taken == state.timesteps) throw std::out_of_range("all timesteps were taken");
  const size_t classes = values_[output_].channels * size_t(values_[output_].positions());
  const Context context{values_, kernels_, *state.workspace, state.images, 1, state.taken, state.timesteps, true};
  together(worth_threads(state.images, 1) ? pool_.size() : 1,
           [&](Team& team, int worker) { execute(context, Which::timed, team, worker); });
  collect(context, logits, 0, classes);
  ++state.taken;
}

}  // namespace spiketicket
