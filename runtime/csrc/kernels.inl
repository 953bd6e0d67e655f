// One source for every instruction set. The including file defines, in an anonymous namespace:
//   kLanes, Vector (kLanes floats), Table (16 partial sums), and
//   Vector zero(); Vector broadcast(float); Vector load(const float*); void store(float*, Vector);
//   Vector add(Vector, Vector); Vector mul(Vector, Vector);
//   Table make_table(const float weight[4]): entry m = sum of weight[j] over the bits j of m, in order of j;
//   Vector look_up(Table, const uint8_t*): entries of kLanes consecutive bytes.
// Nothing here may call an inline library function: the linker could keep this file's copy of it,
// compiled for an instruction set that the CPU does not have, for the whole library.

namespace {

// R vectors of positions times TB timesteps stay in registers while all taps are added.
template <int TB, int R>
void spike_tile(const spiketicket::SpikeTap* taps, size_t count, float bias, const uint8_t* spikes, size_t step,
                float* current, size_t current_step) {
  Vector sums[TB][R];
  for (int t = 0; t < TB; ++t)
    for (int r = 0; r < R; ++r) sums[t][r] = broadcast(bias);
  for (size_t i = 0; i < count; ++i) {
    const Table table = make_table(taps[i].weight);
    const uint8_t* s = spikes + taps[i].offset;
#pragma GCC unroll 8
    for (int t = 0; t < TB; ++t)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[t][r] = add(sums[t][r], look_up(table, s + t * step + r * kLanes));
  }
  for (int t = 0; t < TB; ++t)
    for (int r = 0; r < R; ++r) store(current + t * current_step + r * kLanes, sums[t][r]);
}

template <int TB>
void spike_plane(const spiketicket::SpikeTap* taps, size_t count, float bias, const uint8_t* spikes, size_t step,
                 int positions, float* current, size_t current_step) {
  int p = 0;
  for (; p + 4 * kLanes <= positions; p += 4 * kLanes)
    spike_tile<TB, 4>(taps, count, bias, spikes + p, step, current + p, current_step);
  for (; p < positions; p += kLanes)
    spike_tile<TB, 1>(taps, count, bias, spikes + p, step, current + p, current_step);
}

void accumulate_spikes(const spiketicket::SpikeTap* taps, size_t count, float bias, const uint8_t* spikes,
                       size_t step, int timesteps, int positions, float* current, size_t current_step) {
  while (timesteps > 0) {
    const int block = timesteps < 5 ? timesteps : 5;  // 5 x 4 sums and a table fill the registers of AVX-512
    switch (block) {
      case 1: spike_plane<1>(taps, count, bias, spikes, step, positions, current, current_step); break;
      case 2: spike_plane<2>(taps, count, bias, spikes, step, positions, current, current_step); break;
      case 3: spike_plane<3>(taps, count, bias, spikes, step, positions, current, current_step); break;
      case 4: spike_plane<4>(taps, count, bias, spikes, step, positions, current, current_step); break;
      default: spike_plane<5>(taps, count, bias, spikes, step, positions, current, current_step);
    }
    timesteps -= block;
    spikes += block * step;
    current += block * current_step;
  }
}

template <int R>
void real_tile(const spiketicket::RealTap* taps, size_t count, float bias, const float* x, float* current) {
  Vector sums[R];
  for (int r = 0; r < R; ++r) sums[r] = broadcast(bias);
  for (size_t i = 0; i < count; ++i) {
    const Vector weight = broadcast(taps[i].weight);
    const float* s = x + taps[i].offset;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[r] = add(sums[r], mul(weight, load(s + r * kLanes)));
  }
  for (int r = 0; r < R; ++r) store(current + r * kLanes, sums[r]);
}

void accumulate_real(const spiketicket::RealTap* taps, size_t count, float bias, const float* x, int positions,
                     float* current) {
  int p = 0;
  for (; p + 8 * kLanes <= positions; p += 8 * kLanes) real_tile<8>(taps, count, bias, x + p, current + p);
  for (; p < positions; p += kLanes) real_tile<1>(taps, count, bias, x + p, current + p);
}

void lif(const spiketicket::LifParameters& lif, const float* current, size_t current_step, int timesteps,
         int positions, float* __restrict u, uint8_t* fired, size_t fired_step) {
  const float keep = lif.keep, gain = lif.gain, level = lif.level;
  for (int t = 0; t < timesteps; ++t) {
    const float* __restrict x = current + t * current_step;
    uint8_t* __restrict out = fired + t * fired_step;
    if (lif.soft) {
      for (int p = 0; p < positions; ++p) {
        const float h = u[p] * keep + x[p] * gain;
        const bool fires = h >= level;
        u[p] = fires ? h - level : h;
        out[p] = fires;
      }
    } else {
      for (int p = 0; p < positions; ++p) {
        const float h = u[p] * keep + x[p] * gain;
        const bool fires = h >= level;
        u[p] = fires ? 0.0f : h;
        out[p] = fires;
      }
    }
  }
}

constexpr spiketicket::Kernels kKernels = {kIsa, accumulate_spikes, accumulate_real, lif};

}  // namespace
