// A network as the engine runs it: its values, its operations in order, its threads, and the kernels of its layers.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "layouts/convolution.h"
#include "network/ops.h"
#include "network/value.h"
#include "network/workspace_pool.h"
#include "threads/thread_pool.h"

namespace spiketicket {

class Network {
 public:
  // With `int16`, weights may be rounded to integers where that is faster.
  Network(int threads, bool int16);

  // These build the network, in order of execution; each returns the id of its output value. The caller
  // (runtime/engines/native/lowering.py) has checked all shapes and indices, and keeps the CSR arrays until planned().
  int input(int channels, int height, int width, bool timed);
  int layer(std::vector<Source> sources, std::vector<int> residuals, int outputs, std::span<const float> bias,
            std::optional<LifParameters> lif);
  int neurons(int input, const LifParameters& lif);
  int integrators(int input, const Leak& leak);
  int max_pool(int input, const Geometry& geometry);
  int avg_pool(int input, const Geometry& geometry);
  int add(int a, int b);
  int conjunction(int a, int b, bool negated);
  int concatenation(std::vector<int> parts);
  int flat(int input);
  void finish(int output);

  // These choose the kernel of every layer. choices() returns the kernels that suit the layer of a value, the
  // best guess first; choose() takes one by name; measure() times the kernels of all undecided layers on images as
  // run() takes them, and takes the fastest; guess() takes the best guess. planned() frees what only planning needs.
  std::vector<std::string> choices(int value) const;
  void choose(int value, const std::string& name);
  void measure(const float* x, int images, int timesteps);
  void guess();
  void planned();
  std::string chosen(int value) const;
  std::vector<std::pair<std::string, double>> measured(int value) const;  // ms on one thread
  size_t weight_bytes(int value) const;

  const Value& value(int id) const { return values_[id]; }
  const char* isa() const { return kernels_.isa; }

  // Runs the network on x [images][C][H][W], or, if its input is timed, [timesteps][images][C][H][W], and writes
  // logits [timesteps][images][classes]. `spikes` lists the values to record with their output, uint8
  // [timesteps][images][C][H][W]. `times` is empty, or zeros [operations], to which the milliseconds of each operation
  // are added: the mean over threads where each thread computes images of its own.
  void run(const float* x, int images, int timesteps, float* logits, std::span<const std::pair<int, uint8_t*>> spikes,
           std::span<double> times = {});
  int operations() const { return int(operations_.size()); }
  int operation_of(int value) const;  // index of the operation that computes a value, -1 for the input

  // Run one timestep after the other: call begin() once, then step() up to `timesteps` times, each of which writes
  // logits [images][classes].
  struct State {
    std::unique_ptr<Workspace> workspace;
    int images, timesteps, taken;
    std::vector<float> frames;  // a copy of a timed input, all timesteps
  };
  State begin(const float* x, int images, int timesteps);
  void step(State& state, float* logits);

 private:
  // What is known about the kernel of one operation with weights.
  struct ExecutionPlan {
    bool decided = false;
    std::vector<std::pair<std::string, double>> measured;  // kernel, ms on one thread
  };
  enum class Which { all, fixed, timed };

  int define(Value value);
  int append(std::unique_ptr<Operation> operation, Value output);
  int unrolled(int value);
  size_t size(int value) const { return size_t(values_[value].channels) * values_[value].positions(); }
  int by_window(int input, const Geometry& geometry, bool max);
  Convolution& convolution(int value) const;
  void reserve_values(const Context& context) const;
  void prepare(const Context& context) const;
  void load(const Context& context, const float* x, int first, int images) const;
  void execute(const Context& context, Which which, Team& team, int worker, double* times = nullptr) const;
  void collect(const Context& context, float* logits, size_t timestep, size_t image) const;
  void record(const Context& context, int value, uint8_t* out, size_t timestep, size_t image) const;
  bool worth_threads(int images, int timesteps) const;
  void together(int members, const std::function<void(Team&, int)>& body);

  const Kernels& kernels_;
  const bool int16_;
  ThreadPool pool_;
  std::vector<Value> values_;
  std::vector<std::unique_ptr<Operation>> operations_;
  std::vector<ExecutionPlan> plans_;         // per operation
  std::vector<int> unrolled_;       // per value: its unrolled form, or 0
  std::vector<int> operation_of_;   // per value, -1: none
  int output_ = 0;
  double work_ = 0;  // nanoseconds per image and timestep on one thread
  WorkspacePool workspaces_;
};

}  // namespace spiketicket
