#include "form.h"

#include <algorithm>

namespace spiketicket {

int Layer::planes(const Context& context) const {
  if (!periodic() || !context.stateful) return context.planes(in(0));
  int count = 0;
  for (int period = 1; period <= context.before + 1; ++period) count += (context.before + 1) % period == 0;
  return count;
}

int Layer::plane(const Context& context, int i) const {
  if (!periodic() || !context.stateful) return i;
  for (int period = 1;; ++period)
    if ((context.before + 1) % period == 0 && i-- == 0) return period - 1;
}

// Periods are added in ascending order always, so that a timestep's sum is the same in every kind of run.
void sum_periods(const Context& context, const float* planes, int count, size_t width, const float* bias,
                 size_t bias_step, float* out) {
  const int timesteps = context.timesteps;
  for (int t = 0; t < timesteps; ++t)
    if (bias_step == 0)
      std::fill_n(out + t * width, width, *bias);
    else
      std::memcpy(out + t * width, bias, width * sizeof(float));
  for (int plane = 0; plane < count; ++plane) {
    const int first = context.stateful ? 0 : plane, step = context.stateful ? 1 : plane + 1;
    for (int t = first; t < timesteps; t += step) context.kernels.add_rows(planes + plane * width, width, out + t * width);
  }
}

}  // namespace spiketicket
