// One operator on its own, on plain floats: for a host that knows no packed spikes and runs operator by operator.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "forms/convolution.h"
#include "network/checks.h"
#include "network/workspace_pool.h"

namespace spiketicket {

// The host's threads: runs body(task, worker) for every task in [0, tasks), worker in [0, workers()); returns when all
// are done. Two bodies with the same worker never run at the same time.
class Workers {
 public:
  virtual ~Workers() = default;
  virtual int workers() const = 0;
  virtual void for_each(int tasks, const std::function<void(int task, int worker)>& body) const = 0;
};

// A weight as the model file holds it. Row = output; column = (in channel of the group, ky, kx).
struct Csr {
  std::vector<float> values;
  std::vector<uint32_t> indices;
  std::vector<int32_t> indptr;
};

// A convolution, or a linear layer as the convolution of one pixel. An input of zeros and ones is packed into spikes
// and runs by events; any other is added up as it is, without the zero weights.
class StandaloneLayer {
 public:
  // `shape` is that of the weight: {outputs, inputs per group, ky, kx}, or {outputs, inputs}. Throws
  // std::invalid_argument, saying what is wrong, where the parts do not fit together. `pool`: one for all layers of a
  // process, since they run one after the other most often.
  StandaloneLayer(std::vector<int64_t> shape, Csr csr, std::vector<float> bias, std::vector<int64_t> strides,
                  std::vector<int64_t> pads, std::vector<int64_t> dilations, int64_t groups,
                  std::shared_ptr<WorkspacePool> pool);

  int outputs() const { return outputs_; }

  // Height and width of the output. Throws std::invalid_argument where such an input does not fit.
  std::pair<int, int> output_size(int64_t channels, int64_t height, int64_t width) const;

  // x [timesteps][images][channels][height][width] -> y [timesteps][images][outputs][...], both checked by output_size.
  // Calls from several threads at once are safe.
  void run(const float* x, int64_t timesteps, int64_t images, int height, int width, float* y,
           const Workers& workers) const;

 private:
  struct Plan;
  class Borrowed;
  std::shared_ptr<Plan> plan(int height, int width, bool spikes) const;

  int outputs_, channels_, groups_;
  Geometry geometry_;
  Csr csr_;
  std::vector<float> bias_;
  const Kernels& kernels_;
  std::shared_ptr<WorkspacePool> pool_;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<Plan>> plans_;  // by input size and kind, the last used first
};

// Neurons side by side: spikes[t * step + i], 0 or 1, of the currents x[t * step + i], for i in [0, count). May work in
// place.
void fire_plain(const LifParameters& lif, const float* x, int64_t timesteps, size_t step, size_t count, float* spikes);

}  // namespace spiketicket
