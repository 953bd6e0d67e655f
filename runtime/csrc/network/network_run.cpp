// Runs a network, either all timesteps at once or one timestep after the other: loads images into values, executes the
// operations on threads, and collects logits and recorded spikes.
#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "network/clock.h"
#include "network/network.h"

namespace spiketicket {
namespace {

constexpr double kWorthThreads = 100'000;  // nanoseconds of work; waking a thread costs 10 to 50 microseconds
constexpr int kMostImages = 8;  // that one thread computes layer by layer: their weights are read once
constexpr size_t kMostElements = size_t(1) << 26;  // of one value of these images

// Returns one timestep for every number of divisors that occurs among the timesteps 1 to `timesteps`.
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

// Loads the images of the context, the first of which is image `first` of the `images` in x.
void Network::load(const Context& context, const float* x, int first, int images) const {
  const Value& in = values_.front();
  const size_t area = in.positions(), stride = in.stride();
  for (int image = 0; image < context.images; ++image)
    for (int plane = 0; plane < context.planes(in); ++plane) {
      const float* from = x + (size_t(plane) * images + first + image) * size(0);
      float* to = context.reals(in, image, plane);
      std::fill(to, to + in.plane(), 0.0f);
      for (int c = 0; c < in.channels; ++c, from += area)
        for (size_t p = 0; p < area; ++p) to[p * stride + c] = from[p];
    }
}

// Executes the operations, and adds the milliseconds of each to `times` [operations] unless that is null.
void Network::execute(const Context& context, Which which, Team& team, int worker, double* times) const {
  auto begin = times ? Clock::now() : Clock::time_point();
  for (const auto& operation : operations_) {
    const bool fixed = !values_[operation->output].timed;  // computed once per input
    if (which != Which::all && fixed != (which == Which::fixed)) continue;
    for (int phase = 0; phase < operation->phases(); ++phase)
      team.for_each(operation->tasks(context, phase),
                    [&](int task) { operation->run(context, phase, task, context.workspace.scratch[worker]); });
    if (times == nullptr) continue;
    const auto end = Clock::now();  // one reading per operation: what ends one begins the next
    times[operation->index] += std::chrono::duration<double, std::milli>(end - begin).count();
    begin = end;
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
                  std::span<const std::pair<int, uint8_t*>> spikes, std::span<double> times) {
  const size_t classes = size(output_);
  const int threads = worth_threads(images, timesteps) ? pool_.size() : 1;
  // With enough images, each thread computes groups of its own, without waiting. Otherwise the threads share each
  // group.
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
  const auto run_group = [&](int index, Workspace& workspace, Team& team, int worker, double* clock) {
    const int first = index * group;
    const Context context{values_, kernels_, workspace, std::min(group, images - first), timesteps, 0, timesteps};
    if (worker == 0) load(context, x, first, images);
    team.for_each(0, [](int) {});
    execute(context, Which::all, team, worker, worker == 0 ? clock : nullptr);
    if (worker != 0) return;
    collect(context, logits + first * classes, images * classes, classes);
    for (const auto& [value, out] : spikes)
      record(context, value, out + first * size(value), images * size(value), size(value));
  };
  if (share) {
    for (int index = 0; index < groups; ++index)
      together(threads, [&](Team& team, int worker) {
        run_group(index, *workspaces[0], team, worker, times.empty() ? nullptr : times.data());
      });
  } else {
    std::atomic<int> next{0};
    std::vector<std::vector<double>> clocks(threads, std::vector<double>(times.size()));
    together(threads, [&](Team&, int worker) {
      Team alone(1);
      double* clock = times.empty() ? nullptr : clocks[worker].data();
      for (int index = next++; index < groups; index = next++) run_group(index, *workspaces[worker], alone, 0, clock);
    });
    for (const auto& clock : clocks)
      for (size_t i = 0; i < times.size(); ++i) times[i] += clock[i] / threads;
  }
  for (auto& workspace : workspaces) workspaces_.give_back(std::move(workspace));
}

Network::State Network::begin(const float* x, int images, int timesteps) {
  State state{std::make_unique<Workspace>(), images, timesteps, 0, {}};
  state.workspace->scratch.resize(pool_.size());
  const Context context{values_, kernels_, *state.workspace, images, 1, 0, timesteps, true};
  prepare(context);
  // A timestep reads the planes of all its divisors, so that some timesteps need more memory than the first.
  for (const int t : one_per_divisor_count(timesteps)) {
    const Context later{values_, kernels_, *state.workspace, images, 1, t - 1, timesteps, true};
    for (const auto& operation : operations_) operation->reserve(later);
  }
  if (values_.front().timed)
    state.frames.assign(x, x + size_t(timesteps) * images * size(0));
  else
    load(context, x, 0, images);
  Team alone(1);
  execute(context, Which::fixed, alone, 0);
  return state;
}

void Network::step(State& state, float* logits) {
  if (state.taken == state.timesteps) throw std::out_of_range("all timesteps were taken");
  const Context context{values_, kernels_, *state.workspace, state.images, 1, state.taken, state.timesteps, true};
  if (values_.front().timed)
    load(context, state.frames.data() + size_t(state.taken) * state.images * size(0), 0, state.images);
  together(worth_threads(state.images, 1) ? pool_.size() : 1,
           [&](Team& team, int worker) { execute(context, Which::timed, team, worker); });
  collect(context, logits, 0, size(output_));
  ++state.taken;
}

}  // namespace spiketicket
