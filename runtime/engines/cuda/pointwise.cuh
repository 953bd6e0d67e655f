// The operations without weights: sums, neurons alone, copies from one memory layout to another, gates, pooling.

// Writes a, or a + b if there is a b, through the neuron to `out`, beginning at its feature `first`. A thread computes
// one of `features` features of one of `images` images at all T timesteps.
template <int T>
__global__ void pointwise(OPERAND(a), OPERAND(b), OPERAND(out), int features, int images, int first, CELL) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= static_cast<long long>(features) * images) return;
  const int n = static_cast<int>(i / features), feature = static_cast<int>(i % features);
  const View one = VIEW(a), two = VIEW(b), to = VIEW(out);
  float x[T] = {};
  add<T>(x, one, one.at(n, feature));
  if (two.kind) add<T>(x, two, two.at(n, feature));
  const unsigned word = cell == PASS ? 0 : (NEURON).run<T>(x, i);
  const long long at = to.at(n, first + feature);
  if (to.kind == SPIKES)
    static_cast<Word*>(to.data)[at] = word;
  else
    put<T>(x, to, at);
}

enum Gate { COPY, AND, AND_NOT };

// Does the same for spikes without neurons: copies a, or combines a and b by AND or AND_NOT, word by word.
__global__ void gate(OPERAND(a), OPERAND(b), OPERAND(out), int features, int images, int first, int kind) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= static_cast<long long>(features) * images) return;
  const int n = static_cast<int>(i / features), feature = static_cast<int>(i % features);
  const View one = VIEW(a), two = VIEW(b), to = VIEW(out);
  unsigned word = static_cast<const Word*>(one.data)[one.at(n, feature)];
  if (kind != COPY) {
    const unsigned other = static_cast<const Word*>(two.data)[two.at(n, feature)];
    word &= kind == AND ? other : ~other;
  }
  static_cast<Word*>(to.data)[to.at(n, first + feature)] = word;
}

// Pools windows of kh x kw with strides sy, sx and padding `above`, `before`: the mean if `mean` is set, otherwise the
// maximum, which for spikes is a bitwise or. A mean counts padding as zeros.
template <int T>
__global__ void pool(OPERAND(in), OPERAND(out), int in_height, int channels, int height, int width, int images, int kh,
                     int kw, int sy, int sx, int above, int before, int mean) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int features = channels * height * width;
  if (i >= static_cast<long long>(features) * images) return;
  const int n = static_cast<int>(i / features), feature = static_cast<int>(i % features);
  const int channel = feature / (height * width), place = feature % (height * width);
  const int top = place / width * sy - above, left = place % width * sx - before;
  const View from = VIEW(in), to = VIEW(out);
  unsigned word = 0;
  float x[T];
#pragma unroll
  for (int t = 0; t < T; ++t) x[t] = mean ? 0.0f : -3.402823466e38f;
  for (int y = max(top, 0); y < min(top + kh, in_height); ++y)
    for (int column = max(left, 0); column < min(left + kw, in_width); ++column) {
      const long long at = from.at(n, (channel * in_height + y) * in_width + column);
      if (to.kind == SPIKES) {
        word |= static_cast<const Word*>(from.data)[at];
        continue;
      }
      float value[T] = {};
      add<T>(value, from, at);
#pragma unroll
      for (int t = 0; t < T; ++t) x[t] = mean ? x[t] + value[t] : fmaxf(x[t], value[t]);
    }
  if (to.kind == SPIKES) {
    static_cast<Word*>(to.data)[to.at(n, feature)] = word;
    return;
  }
  if (mean)
#pragma unroll
    for (int t = 0; t < T; ++t) x[t] /= kh * kw;
  put<T>(x, to, to.at(n, feature));
}
