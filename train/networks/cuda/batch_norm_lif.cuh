// Batch norm per timestep followed by LIF neurons, forward and backward, over all T timesteps; and LIF neurons alone.
//
// Currents x, spikes and their derivatives are [T, rows, channels]: channels-last images with rows = images x pixels.
// Batch statistics are taken over rows, for each timestep and channel. `added`, if it is not null, is added to the
// normalised currents, as in a residual block. The backward pass needs only x, `added` and the statistics: it computes
// the potentials again. The equations are those of norms.py and neurons.py.

struct Bfloat16 {
  unsigned short bits;
};

struct Float16 {
  unsigned short bits;
};

__device__ inline float number(Float16 x) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  return halves.values[x.bits];
#endif
}

__device__ inline void store(Float16& to, float x) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  to.bits = halves.nearest(x);
#endif
}

__device__ inline float number(float x) { return x; }
__device__ inline float number(Bfloat16 x) { return __int_as_float(static_cast<int>(x.bits) << 16); }
__device__ inline void store(float& to, float x) { to = x; }
__device__ inline void store(Bfloat16& to, float x) {  // to the nearest, ties to even
  const unsigned bits = static_cast<unsigned>(__float_as_int(x));
  to.bits = x == x ? (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 : 0x7fc0u;
}

const int WARPS = 8;  // of a block that sums over rows; its lanes are 32 channels

// The parameters of the neuron, named as in neurons.py. `half_alpha` is alpha / 2, `steep` is pi * alpha / 2.
#define LIF float k, float c, float r, float threshold, float half_alpha, float steep, int soft, int detached
#define NEURON \
  Lif { k, c, r, threshold, half_alpha, steep, soft, detached }

struct Lif {
  float k, c, r, threshold, half_alpha, steep;
  int soft, detached;

  // Computes z[t] = h[t] - threshold at all timesteps from the inputs y, beginning at rest.
  template <int T>
  __device__ void charge(const float (&y)[T], float (&z)[T]) const {
    float v = r;
#pragma unroll
    for (int t = 0; t < T; ++t) {
      const float h = (1.0f - k) * v + c * y[t] + k * r;
      z[t] = h - threshold;
      v = z[t] >= 0.0f ? (soft ? z[t] : r) : h;
    }
  }

  // Turns the derivatives with respect to the spikes into those with respect to y, in `by`.
  template <int T>
  __device__ void backward(const float (&z)[T], float (&by)[T]) const {
    float by_v = 0.0f;
#pragma unroll
    for (int t = T - 1; t >= 0; --t) {
      const float curve = steep * z[t], g = half_alpha / (1.0f + curve * curve);
      float d = soft || z[t] < 0.0f ? 1.0f : 0.0f;
      if (!detached) d += g * (soft ? -threshold : r - (z[t] + threshold));
      by[t] = c * (by[t] * g + by_v * d);
      by_v = (1.0f - k) * by[t] / c;
    }
  }
};

// The parameters of batch norm. Statistics are [T, 2, channels]: the mean, then 1 / sqrt(variance + eps).
struct Norm {
  const float *statistics, *weight, *bias;
  int channels;
  __device__ float mean(int t, int channel) const { return statistics[2 * t * channels + channel]; }
  __device__ float scale(int t, int channel) const { return statistics[(2 * t + 1) * channels + channel]; }
};

#define NORM const float *statistics, const float *weight, const float *bias, int channels
#define OF_NORM \
  Norm { statistics, weight, bias, channels }

// Returns, in the first warp of a block, the sums over its warps, lane by lane. All threads must call it.
__device__ inline float over_warps(float value, float (&shared)[WARPS][33]) {
  __syncthreads();
  shared[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  float sum = 0.0f;
  if (threadIdx.y == 0)
    for (int warp = 0; warp < WARPS; ++warp) sum += shared[warp][threadIdx.x];
  return sum;
}

// Writes the mean of a chunk of rows and the sum of squared differences from it to parts [T, chunks, 2, channels]. It
// sums differences from the first row of the chunk, so that a large mean costs no precision. A block is 32 channels by
// WARPS rows; a grid covers the channels by 32, the chunks and T.
template <class S>
__global__ void moments(const S* x, float* parts, int rows, int channels, int chunk) {
  __shared__ float shared[WARPS][33];
  const int channel = blockIdx.x * 32 + threadIdx.x, t = blockIdx.z;
  const int own = min(channel, channels - 1), begin = blockIdx.y * chunk, end = min(begin + chunk, rows);
  const S* from = x + static_cast<long long>(t) * rows * channels + own;
  const float first = number(from[static_cast<long long>(begin) * channels]);
  float sum = 0.0f, squares = 0.0f;
  for (int row = begin + threadIdx.y; row < end; row += WARPS) {
    const float difference = number(from[static_cast<long long>(row) * channels]) - first;
    sum += difference;
    squares += difference * difference;
  }
  sum = over_warps(sum, shared);
  squares = over_warps(squares, shared);
  if (threadIdx.y || channel >= channels) return;
  float* to = parts + (static_cast<long long>(t) * gridDim.y + blockIdx.y) * 2 * channels + channel;
  to[0] = first + sum / (end - begin);
  to[channels] = squares - sum * sum / (end - begin);
}

// Combines the parts into `statistics`, and updates the running statistics timestep after timestep, with momentum m0 to
// m7, unless they are null. A block is 32 channels by T timesteps; a grid covers the channels by 32.
template <int T>
__global__ void statistics(const float* parts, float* statistics, float* running_mean, float* running_var, int rows,
                           int channels, int chunk, int chunks, float eps, float m0, float m1, float m2, float m3,
                           float m4, float m5, float m6, float m7) {
  const float momenta[8] = {m0, m1, m2, m3, m4, m5, m6, m7};
  __shared__ float means[T][33], variances[T][33];
  const int channel = blockIdx.x * 32 + threadIdx.x, t = threadIdx.y, own = min(channel, channels - 1);
  const float* from = parts + static_cast<long long>(t) * chunks * 2 * channels + own;
  float mean = 0.0f, squares = 0.0f;
  int count = 0;
  for (int i = 0; i < chunks; ++i, from += 2 * channels) {
    const int size = min(chunk, rows - i * chunk);
    const float difference = from[0] - mean, share = static_cast<float>(size) / (count + size);
    mean += difference * share;
    squares += from[channels] + difference * difference * count * share;
    count += size;
  }
  if (channel < channels) {
    statistics[2 * t * channels + channel] = mean;
    statistics[(2 * t + 1) * channels + channel] = 1.0f / sqrtf(squares / rows + eps);
  }
  means[t][threadIdx.x] = mean;
  variances[t][threadIdx.x] = squares / (rows - 1);
  __syncthreads();
  if (t || channel >= channels || !running_mean) return;
  float running = running_mean[channel], variance = running_var[channel];
#pragma unroll
  for (int step = 0; step < T; ++step) {
    running += momenta[step] * (means[step][threadIdx.x] - running);
    variance += momenta[step] * (variances[step][threadIdx.x] - variance);
  }
  running_mean[channel] = running;
  running_var[channel] = variance;
}

// Reads one element at all timesteps, `step` elements apart; with a step of 0 all timesteps have the same value.
template <int T, class S>
__device__ void read(const S* from, long long element, long long step, float (&values)[T]) {
#pragma unroll
  for (int t = 0; t < T; ++t) values[t] = number(from[element + t * step]);
}

// Writes one element at all timesteps, `step` elements apart.
template <int T, class S>
__device__ void write(S* to, long long element, long long step, const float (&values)[T]) {
#pragma unroll
  for (int t = 0; t < T; ++t) store(to[element + t * step], values[t]);
}

// Writes the spikes of one element at all timesteps: 1 where the gap between potential and threshold is not negative.
template <int T, class S>
__device__ void write_spikes(S* to, long long element, long long step, const float (&gap)[T]) {
#pragma unroll
  for (int t = 0; t < T; ++t) store(to[element + t * step], gap[t] >= 0.0f ? 1.0f : 0.0f);
}

// Computes the normalised currents z of one element, and y, the input of its neuron.
template <int T, class S>
__device__ void normalise(const S* x, const S* added, long long element, long long step, const Norm& norm, int channel,
                          float (&z)[T], float (&y)[T]) {
  float more[T] = {};
  if (added) read<T>(added, element, step, more);
  read<T>(x, element, step, z);
#pragma unroll
  for (int t = 0; t < T; ++t) {
    z[t] = (z[t] - norm.mean(t, channel)) * norm.scale(t, channel);
    y[t] = z[t] * norm.weight[channel] + norm.bias[channel] + more[t];
  }
}

// Computes the spikes of batch norm and neurons from the currents x. A thread computes one of `step` = rows x channels
// elements at all timesteps.
template <int T, class S>
__global__ void forward(const S* x, const S* added, S* spikes, NORM, long long step, LIF) {
  const long long element = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (element >= step) return;
  float z[T], y[T], gap[T];
  normalise<T>(x, added, element, step, OF_NORM, static_cast<int>(element % channels), z, y);
  (NEURON).charge<T>(y, gap);
  write_spikes<T>(spikes, element, step, gap);
}

// Computes the derivatives with respect to y of one element, and its normalised currents z.
template <int T, class S>
__device__ void derive(const S* x, const S* added, const S* by_spikes, long long element, long long step,
                       const Norm& norm, int channel, const Lif& neuron, float (&z)[T], float (&by)[T]) {
  float y[T], gap[T];
  normalise<T>(x, added, element, step, norm, channel, z, y);
  neuron.charge<T>(y, gap);
  read<T>(by_spikes, element, step, by);
  neuron.backward<T>(gap, by);
}

// Writes the sums over a chunk of rows of the derivatives with respect to y, and of these times z, to parts [T, chunks,
// 2, channels]. A block is 32 channels by WARPS rows; a grid covers the channels by 32, and the chunks.
template <int T, class S>
__global__ void backward_sums(const S* x, const S* added, const S* by_spikes, float* parts, NORM, int rows, int chunk,
                              LIF) {
  __shared__ float shared[WARPS][33];
  const int channel = blockIdx.x * 32 + threadIdx.x, own = min(channel, channels - 1);
  const int begin = blockIdx.y * chunk, end = min(begin + chunk, rows);
  const long long step = static_cast<long long>(rows) * channels;
  const Lif neuron = NEURON;
  float sums[2][T] = {};
  for (int row = begin + threadIdx.y; row < end; row += WARPS) {
    float z[T], by[T];
    derive<T>(x, added, by_spikes, static_cast<long long>(row) * channels + own, step, OF_NORM, own, neuron, z, by);
#pragma unroll
    for (int t = 0; t < T; ++t) {
      sums[0][t] += by[t];
      sums[1][t] += by[t] * z[t];
    }
  }
#pragma unroll
  for (int t = 0; t < T; ++t)
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const float sum = over_warps(sums[which][t], shared);
      if (threadIdx.y == 0 && channel < channels)
        parts[((static_cast<long long>(t) * gridDim.y + blockIdx.y) * 2 + which) * channels + channel] = sum;
    }
}

// Combines the parts into means over rows, [T, 2, channels], and the derivatives with respect to bias and weight, [2,
// channels]. A thread computes one of 2 x channels elements.
template <int T>
__global__ void totals(const float* parts, float* means, float* by_parameters, int rows, int channels, int chunks) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;  // of [2, channels]
  if (i >= 2 * channels) return;
  float total = 0.0f;
  for (int t = 0; t < T; ++t) {
    float sum = 0.0f;
#pragma unroll 16  // few threads: so many loads under way hide the memory's latency
    for (int j = 0; j < chunks; ++j) sum += parts[(static_cast<long long>(t) * chunks + j) * 2 * channels + i];
    means[2 * t * channels + i] = sum / rows;
    total += sum;
  }
  by_parameters[i] = total;
}

// Computes the derivatives with respect to x and, unless `by_added` is null, to `added`. A thread computes one of
// `step` = rows x channels elements at all timesteps.
template <int T, class S>
__global__ void backward(const S* x, const S* added, const S* by_spikes, S* by_x, S* by_added, NORM, const float* means,
                         long long step, LIF) {
  const long long element = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (element >= step) return;
  const int channel = static_cast<int>(element % channels);
  const Norm norm = OF_NORM;
  float z[T], by[T];
  derive<T>(x, added, by_spikes, element, step, norm, channel, NEURON, z, by);
  if (by_added) write<T>(by_added, element, step, by);
#pragma unroll
  for (int t = 0; t < T; ++t) {
    const float* mean = means + 2 * t * channels + channel;
    by[t] = weight[channel] * norm.scale(t, channel) * (by[t] - mean[0] - z[t] * mean[channels]);
  }
  write<T>(by_x, element, step, by);
}

// Computes the spikes of neurons alone from the currents x, whose timesteps are x_step apart (0 if all are the same).
template <int T, class S>
__global__ void fire(const S* x, long long x_step, S* spikes, long long step, LIF) {
  const long long element = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (element >= step) return;
  float y[T], gap[T];
  read<T>(x, element, x_step, y);
  (NEURON).charge<T>(y, gap);
  write_spikes<T>(spikes, element, step, gap);
}

// Computes the derivatives of neurons alone with respect to their currents.
template <int T, class S>
__global__ void fire_backward(const S* x, long long x_step, const S* by_spikes, S* by_x, long long step, LIF) {
  const long long element = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (element >= step) return;
  const Lif neuron = NEURON;
  float y[T], gap[T], by[T];
  read<T>(x, element, x_step, y);
  neuron.charge<T>(y, gap);
  read<T>(by_spikes, element, step, by);
  neuron.backward<T>(gap, by);
  write<T>(by_x, element, step, by);
}
