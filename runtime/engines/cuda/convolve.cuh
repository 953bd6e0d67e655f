// A layer with sparse weights: convolution (or linear layer), bias, residual, neurons over all T, max-pooling.
//
// A warp computes one output channel. Each of its lanes computes a patch of PH x PW positions; if there are few
// patches, LANES > 1 lanes share a patch, and each takes every LANES-th nonzero. A nonzero is a weight and its offset
// from the corner of the window in the input. It is the same for all patches, so that zeros cost no memory traffic.

const int AHEAD = 4;  // nonzeros that are loaded before they are used

// How the input of a layer is read: add() adds `weight` times the input at x to SUMS sums, one per timestep.
template <int T, int KIND>
struct Source;

template <int T>
struct Source<T, SPIKES> {
  typedef Word Element;
  static const int SUMS = T;
  static __device__ void add(float (&sum)[T], const Word* x, long long, float weight) {
    const unsigned word = *x;
#pragma unroll
    for (int t = 0; t < T; ++t)
      if (word >> t & 1u) sum[t] += weight;
  }
};

template <int T>
struct Source<T, TIMED> {
  typedef float Element;
  static const int SUMS = T;
  static __device__ void add(float (&sum)[T], const float* x, long long step, float weight) {
#pragma unroll
    for (int t = 0; t < T; ++t) sum[t] += weight * x[t * step];
  }
};

template <int T>
struct Source<T, STATIC> {  // an input that is the same at every timestep needs one sum
  typedef float Element;
  static const int SUMS = 1;
  static __device__ void add(float (&sum)[1], const float* x, long long, float weight) { sum[0] += weight * *x; }
};

// Computes rows x height x width outputs of `images` images: the sum of the nonzeros [starts[row], starts[row + 1])
// times the input of kind KIND, plus bias[row] and `other`, through the neuron to `out`. With neurons, `out` gets the
// spikes, combined by a bitwise or over each patch of PH x PW positions; with PASS, it gets the real-valued sums. A
// block is 32 lanes by 4 rows; the grid covers patches * LANES lanes and all rows.
template <int T, int KIND, int PH, int PW, int LANES>
__global__ void convolve(const typename Source<T, KIND>::Element* in, long long in_image, long long in_step, int down,
                         int right,  // elements from one output position's window to the one below, to the right
                         const uint2* nonzeros, const int* starts, const float* bias, int rows, int height, int width,
                         int images, OPERAND(other), OPERAND(out), CELL) {
  typedef Source<T, KIND> In;
  const int row = blockIdx.y * blockDim.y + threadIdx.y;
  if (row >= rows) return;  // for the whole warp
  const int high = height / PH, wide = width / PW;  // patches
  const long long patches = static_cast<long long>(images) * high * wide;
  const long long mine = (static_cast<long long>(blockIdx.x) * 32 + threadIdx.x) / LANES;
  const long long patch = mine < patches ? mine : patches - 1;
  const int n = static_cast<int>(patch / (high * wide)), place = static_cast<int>(patch % (high * wide));
  const int top = place / wide * PH, left = place % wide * PW;
  const typename In::Element* corners[PH * PW];  // of the windows
#pragma unroll
  for (int p = 0; p < PH * PW; ++p)
    corners[p] = in + n * in_image + static_cast<long long>(top + p / PW) * down + (left + p % PW) * right;

  float sums[PH * PW][In::SUMS] = {};
  const uint2* next = nonzeros + starts[row] + threadIdx.x % LANES;
  int left_over = (starts[row + 1] - starts[row] - static_cast<int>(threadIdx.x) % LANES + LANES - 1) / LANES;
#pragma unroll 1
  for (; left_over >= AHEAD; left_over -= AHEAD, next += AHEAD * LANES) {
    uint2 some[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) some[i] = next[i * LANES];
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
#pragma unroll
      for (int p = 0; p < PH * PW; ++p) In::add(sums[p], corners[p] + some[i].x, in_step, __int_as_float(some[i].y));
  }
#pragma unroll 1
  for (; left_over > 0; --left_over, next += LANES)
#pragma unroll
    for (int p = 0; p < PH * PW; ++p) In::add(sums[p], corners[p] + next->x, in_step, __int_as_float(next->y));
#pragma unroll
  for (int distance = LANES / 2; distance; distance /= 2)
#pragma unroll
    for (int p = 0; p < PH * PW; ++p)
#pragma unroll
      for (int s = 0; s < In::SUMS; ++s) sums[p][s] += __shfl_xor_sync(0xffffffffu, sums[p][s], distance);
  if (mine >= patches || threadIdx.x % LANES) return;

  const View added = VIEW(other), to = VIEW(out);
  const Neuron neuron = NEURON;
  unsigned fired = 0;
#pragma unroll
  for (int p = 0; p < PH * PW; ++p) {
    const int feature = (row * height + top + p / PW) * width + left + p % PW;
    float x[T];
#pragma unroll
    for (int t = 0; t < T; ++t) x[t] = sums[p][t < In::SUMS ? t : 0] + bias[row];
    if (added.kind) add<T>(x, added, added.at(n, feature));
    if (cell == PASS)
      put<T>(x, to, to.at(n, feature));
    else
      fired |= neuron.run<T>(x, static_cast<long long>(n) * rows * height * width + feature);
  }
  if (cell != PASS) static_cast<Word*>(out_data)[to.at(n, (row * high + top / PH) * wide + left / PW)] = fired;
}
