// One operator on its own, on plain floats: for a host that knows no packed spikes and runs operator by operator.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "layouts/convolution.h"
#include "network/checks.h"
#include "network/workspace_pool.h"

namespace spiketicket {

// The threads of the host. for_each() runs body(task, worker) for every task in [0, tasks), with worker in [0,
// workers()), and returns when all are done. Two bodies with the same worker never run at the same time.
class Workers {
 public:
  virtual ~Workers() = default;
  virtual int workers() const = 0;
  virtual void for_each(int tasks, const std::function<void(int task, int worker)>& body) const = 0;
};

// A weight as the model file stores it. A row is an output, a column is (input channel of the group, ky, kx).
struct Csr {
  std::vector<float> values;
  std::vector<uint32_t> indices;
  std::vector<int32_t> indptr;
};

// A convolution, or a linear layer as the convolution of one pixel. An input of zeros and ones is packed into spikes
// and computed by events; any other input is multiplied with the nonzero weights.
class StandaloneLayer {
 public:
  // `shape` is that of the weight: {outputs, inputs per group, ky, kx}, or {outputs, inputs}. Throws
  // std::invalid_argument if the parts do not fit together. All layers of a process share one `pool` of workspaces,
  // since they mostly run one after the other.
  StandaloneLayer(std::vector<int64_t> shape, Csr csr, std::vector<float> bias, std::vector<int64_t> strides,
                  std::vector<int64_t> pads, std::vector<int64_t> dilations, int64_t groups,
                  std::shared_ptr<WorkspacePool> pool);

  int outputs() const { return outputs_; }

  // Returns height and width of the output. Throws std::invalid_argument if the layer cannot read such an input.
  std::pair<int, int> output_size(int64_t channels, int64_t height, int64_t width) const;

  // Computes y [timesteps][images][outputs][...] from x [timesteps][images][channels][height][width], whose sizes were
  // checked by output_size(). It may be called from several threads at once.
  void run(const float* x, int64_t timesteps, int64_t images, int height, int width, float* y,
           const Workers& workers) const;

 private:
  struct SizedLayer;
  class Borrowed;
  std::shared_ptr<SizedLayer> layer_for(int height, int width, bool spikes) const;

  int outputs_, channels_, groups_;
  Geometry geometry_;
  Csr csr_;
  std::vector<float> bias_;
  const Kernels& kernels_;
  std::shared_ptr<WorkspacePool> pool_;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<SizedLayer>> sized_layers_;  // the most recently used first
};

// Runs `count` neurons: writes spikes[t * step + i], 0 or 1, for the currents x[t * step + i], with i in [0, count).
// `spikes` may be `x`.
void fire_plain(const LifParameters& lif, const float* x, int64_t timesteps, size_t step, size_t count, float* spikes);

}  // namespace spiketicket
