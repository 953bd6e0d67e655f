#include "network.h"

#include <stdexcept>

namespace spiketicket {
namespace {

constexpr double kWorthThreads = 40'000;  // nanoseconds of work; waking a thread costs 10 to 50 microseconds

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

void Scratch::reserve(int timesteps, size_t positions) {
  current.reserve(timesteps * positions);
  potential.reserve(positions);
  plane.reserve(positions);
  fired.reserve(timesteps * positions);
}

Network::Network(int threads) : kernels_(select_kernels()), pool_(threads) {}

int Network::define(Value value) {
  value.layout = Layout::plain(value.height, value.width);
  value.storage = int(values_.size());
  values_.push_back(value);
  return value.storage;
}

int Network::append(std::unique_ptr<Operation> operation, Value output) {
  operation->output = define(output);
  operation->index = int(operations_.size());
  largest_plane_ = std::max(largest_plane_, operation->positions());
  operations_.push_back(std::move(operation));
  return operations_.back()->output;
}

int Network::input(int channels, int height, int width) {
  return define({.channels = channels, .height = height, .width = width});
}

int Network::repeat(int input) {
  Value value = values_[input];
  value.timed = value.repeated = true;
  values_.push_back(value);
  return int(values_.size()) - 1;
}

// The value itself where it lies as the window wants it (or can be made to, being free), else a copy.
int Network::arranged(int input, const Geometry& g) {
  const Layout wanted = Layout::for_window(g, values_[input].height, values_[input].width);
  Value& in = values_[input];
  if (in.layout_open && wanted.phases_y == 1 && wanted.phases_x == 1) {
    in.layout = wanted;
    in.layout_open = false;
  }
  if (in.layout == wanted) return input;
  Value value{.channels = in.channels, .height = in.height, .width = in.width, .spikes = in.spikes, .timed = in.timed,
              .repeated = in.repeated};
  const int copy = append(make_arrange(values_, input), value);
  values_[copy].layout = wanted;
  return copy;
}

int Network::conv(int input, const Geometry& g, int groups, int rows, const CsrView& weight, std::span<const float> bias,
                  std::optional<LifParameters> lif) {
  const int source = arranged(input, g);
  const Value& in = values_[source];
  const int height = out_height(g, in), width = out_width(g, in);
  const bool timed = in.timed || lif.has_value();
  return append(make_conv(values_, source, g, groups, rows, weight, bias, lif, height, width),
                {.channels = rows, .height = height, .width = width, .spikes = lif.has_value(), .timed = timed,
                 .repeated = in.repeated && !lif, .layout_open = lif.has_value()});
}

int Network::lif(int input, const LifParameters& lif) {
  const Value& in = values_[input];
  return append(make_lif(values_, input, lif), {.channels = in.channels, .height = in.height, .width = in.width,
                                                .spikes = true, .timed = true, .layout_open = true});
}

int Network::max_pool(int input, const Geometry& g) {
  const Value& in = values_[input];
  const int height = out_height(g, in), width = out_width(g, in);
  return append(make_pool(values_, input, g, true, height, width),
                {.channels = in.channels, .height = height, .width = width, .spikes = in.spikes, .timed = in.timed,
                 .repeated = in.repeated, .layout_open = in.spikes});
}

int Network::avg_pool(int input, const Geometry& g) {
  const Value& in = values_[input];
  const int height = out_height(g, in), width = out_width(g, in);
  return append(make_pool(values_, input, g, false, height, width),
                {.channels = in.channels, .height = height, .width = width, .timed = in.timed, .repeated = in.repeated});
}

int Network::add(int a, int b) {
  const Value& first = values_[a];
  const bool repeated = first.step() == 0 && values_[b].step() == 0;
  return append(make_add(values_, a, b), {.channels = first.channels, .height = first.height, .width = first.width,
                                          .timed = first.timed, .repeated = first.timed && repeated});
}

void Network::finish(int output) { output_ = output; }

void Network::prepare(Workspace& workspace, int timesteps, bool stateful, int threads) const {
  workspace.reals.resize(values_.size());
  workspace.spikes.resize(values_.size());
  for (const Value& v : values_) {
    const size_t count = v.per_timestep() * (v.timed && !v.repeated ? timesteps : 1);
    if (v.spikes)
      workspace.spikes[v.storage].reserve(count);
    else
      workspace.reals[v.storage].reserve(count);
  }
  if (workspace.scratch.size() < size_t(threads)) workspace.scratch.resize(threads);
  for (Scratch& scratch : workspace.scratch) scratch.reserve(timesteps, largest_plane_);
  if (!stateful) return;
  workspace.potentials.resize(operations_.size());
  for (const auto& operation : operations_) {
    const Value& out = values_[operation->output];
    if (out.spikes) workspace.potentials[operation->index].reserve(size_t(out.channels) * operation->positions());
  }
}

void Network::load(Workspace& workspace, const float* x) const {
  const Value& in = values_.front();
  std::memcpy(workspace.reals[in.storage].data(), x, in.per_timestep() * sizeof(float));
}

void Network::execute(Workspace& workspace, int timesteps, bool stateful, Phase phase, bool threads) {
  for (const auto& operation : operations_) {
    const Value& out = values_[operation->output];
    const bool fixed = out.step() == 0;  // computed once per input
    if (phase != Phase::all && fixed != (phase == Phase::fixed)) continue;
    const auto run = [&](int task, int worker) {
      operation->run({values_, kernels_, workspace, workspace.scratch[worker], timesteps, stateful}, task);
    };
    if (threads && operation->work() * timesteps >= kWorthThreads)
      pool_.run(operation->tasks(), run);
    else
      for (int task = 0; task < operation->tasks(); ++task) run(task, 0);
  }
}

void Network::collect(Workspace& workspace, int timesteps, float* logits, size_t stride) const {
  const Value& v = values_[output_];
  for (int t = 0; t < timesteps; ++t) {
    float* to = logits + t * stride;
    for (int c = 0; c < v.channels; ++c)
      for (int y = 0; y < v.height; ++y)
        for (int x = 0; x < v.width; ++x) {
          const size_t at = t * v.step() + v.layout.at(y, x);
          if (v.spikes)
            *to++ = float(workspace.spikes[v.storage].data()[at + size_t(c / 4) * v.layout.plane] >> (c % 4) & 1);
          else
            *to++ = workspace.reals[v.storage].data()[at + size_t(c) * v.layout.plane];
        }
  }
}

void Network::record(Workspace& workspace, int timesteps, int value, uint8_t* out, size_t stride) const {
  const Value& v = values_[value];
  for (int t = 0; t < timesteps; ++t) {
    uint8_t* to = out + t * stride;
    for (int c = 0; c < v.channels; ++c) {
      const uint8_t* plane = workspace.spikes[v.storage].data() + t * v.step() + size_t(c / 4) * v.layout.plane;
      for (int y = 0; y < v.height; ++y)
        for (int x = 0; x < v.width; ++x) *to++ = plane[v.layout.at(y, x)] >> (c % 4) & 1;
    }
  }
}

std::unique_ptr<Workspace> Network::borrow() {
  const std::lock_guard lock(spare_mutex_);
  if (spare_.empty()) return std::make_unique<Workspace>();
  std::unique_ptr<Workspace> workspace = std::move(spare_.back());
  spare_.pop_back();
  return workspace;
}

void Network::give_back(std::unique_ptr<Workspace> workspace) {
  const std::lock_guard lock(spare_mutex_);
  spare_.push_back(std::move(workspace));
}

void Network::run(const float* x, int images, int timesteps, float* logits,
                  std::span<const std::pair<int, uint8_t*>> spikes) {
  const size_t input_size = values_.front().per_timestep();
  const size_t classes = values_[output_].size();
  const auto run_image = [&](Workspace& workspace, int image, bool threads) {
    load(workspace, x + image * input_size);
    execute(workspace, timesteps, false, Phase::all, threads);
    collect(workspace, timesteps, logits + image * classes, images * classes);
    for (const auto& [value, out] : spikes) {
      const size_t size = values_[value].size();
      record(workspace, timesteps, value, out + image * size, images * size);
    }
  };
  // Enough images: one per thread, without waiting for each other. Otherwise the threads share each image.
  const bool share = images < pool_.size();
  std::vector<std::unique_ptr<Workspace>> workspaces(share ? 1 : pool_.size());
  for (auto& workspace : workspaces) {
    workspace = borrow();
    prepare(*workspace, timesteps, false, share ? pool_.size() : 1);
  }
  if (share)
    for (int image = 0; image < images; ++image) run_image(*workspaces[0], image, true);
  else
    pool_.run(images, [&](int image, int worker) { run_image(*workspaces[worker], image, false); });
  for (auto& workspace : workspaces) give_back(std::move(workspace));
}

Network::State Network::begin(const float* x, int images) {
  State state;
  const bool share = images < pool_.size();
  for (int image = 0; image < images; ++image) {
    auto workspace = std::make_unique<Workspace>();
    prepare(*workspace, 1, true, share ? pool_.size() : 1);
    load(*workspace, x + image * values_.front().per_timestep());
    execute(*workspace, 1, true, Phase::fixed, false);
    state.push_back(std::move(workspace));
  }
  return state;
}

void Network::step(State& state, float* logits) {
  const size_t classes = values_[output_].size();
  const auto step_image = [&](int image, bool threads) {
    execute(*state[image], 1, true, Phase::timed, threads);
    collect(*state[image], 1, logits + image * classes, 0);
  };
  const int images = int(state.size());
  if (images < pool_.size())
    for (int image = 0; image < images; ++image) step_image(image, true);
  else
    pool_.run(images, [&](int image, int) { step_image(image, false); });
}

}  // namespace spiketicket
