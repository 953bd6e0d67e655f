#include "layouts/memory_layout.h"

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

// Periods are always added in ascending order, so that a timestep's sum is the same in every kind of run.
void sum_periods(const Context& context, const float* planes, int count, size_t width, const float* bias, float* out) {
  for (int t = 0; t < context.timesteps; ++t)
    context.kernels.add_rows(bias, planes, width, out + t * width);  // period 1
  for (int plane = 1; plane < count; ++plane) {
    const int first = context.stateful ? 0 : plane, step = context.stateful ? 1 : plane + 1;
    for (int t = first; t < context.timesteps; t += step)
      context.kernels.add_rows(out + t * width, planes + plane * width, width, out + t * width);
  }
}

}  // namespace spiketicket
