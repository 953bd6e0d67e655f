// What all kernels share: the memory layout of values, and the neuron.
//
// The spikes of one neuron are the bits of one word: bit t is timestep t. Images are stored as planes with a border of
// zeros that is as wide as their readers need, so that no kernel has to test whether a position is inside. Real values
// are float, with one array per timestep (TIMED), or a single one for all timesteps (STATIC).
//
// T, the number of timesteps that a launch computes, is at most 8 and known at compile time. A longer run takes several
// launches, between which potentials are kept in memory (`state`).

typedef unsigned char Word;

enum Kind { NONE, SPIKES, TIMED, STATIC };
enum Cell { PASS, HARD, SOFT, LEAK };  // what a current becomes: itself, spikes with hard or soft reset, a potential

// The parameters of a kernel that describe one operand, and the View that they make.
#define OPERAND(p)                                                                                              \
  void *p##_data, int p##_kind, int p##_width, int p##_area, int p##_pitch, int p##_plane, long long p##_image, \
      long long p##_step
#define VIEW(p) \
  View { p##_data, p##_kind, p##_width, p##_area, p##_pitch, p##_plane, p##_image, p##_step }

#define CELL int cell, float keep, float gain, float level, float drop, float *state, const int *resume
#define NEURON \
  Neuron { cell, keep, gain, level, drop, state, resume }

struct View {
  void* data;  // the first element that is not border
  int kind;
  int width, area;  // of an image
  int pitch, plane;  // elements from one row to the next, from one channel to the next
  long long image, step;  // elements from one image to the next, from one timestep to the next

  // Returns the index of a feature, numbered as in a flattened image, of image n.
  __device__ long long at(int n, int feature) const {
    const int channel = feature / area, rest = feature % area;
    return n * image + static_cast<long long>(channel) * plane + rest / width * pitch + rest % width;
  }
};

// Adds the value at index `at` to the currents of T timesteps; spikes count as 0 and 1.
template <int T>
__device__ void add(float (&x)[T], const View& from, long long at) {
  if (from.kind == SPIKES) {
    const unsigned word = static_cast<const Word*>(from.data)[at];
#pragma unroll
    for (int t = 0; t < T; ++t) x[t] += static_cast<float>(word >> t & 1u);
  } else if (from.kind == TIMED) {
#pragma unroll
    for (int t = 0; t < T; ++t) x[t] += static_cast<const float*>(from.data)[at + t * from.step];
  } else if (from.kind == STATIC) {
    const float value = static_cast<const float*>(from.data)[at];
#pragma unroll
    for (int t = 0; t < T; ++t) x[t] += value;
  }
}

// A neuron, whose potential is relative to rest. If a run takes several launches, `state` holds one potential per
// neuron and *resume is 0 in the first launch; otherwise `state` is null.
struct Neuron {
  int cell;
  float keep, gain, level, drop;
  float* state;
  const int* resume;

  // Runs the neuron over T timesteps on the currents x and returns its spikes as a word. For LEAK, x becomes the
  // potentials and the word is 0.
  template <int T>
  __device__ unsigned run(float (&x)[T], long long at) const {
    unsigned word = 0;
    float v = state && *resume ? state[at] : 0.0f;
#pragma unroll
    for (int t = 0; t < T; ++t) {
      v = keep * v + gain * x[t];
      if (cell == LEAK) {
        x[t] = v;
      } else if (v >= level) {
        word |= 1u << t;
        v = cell == SOFT ? v - drop : 0.0f;
      }
    }
    if (state) state[at] = v;
    return word;
  }
};

// Writes real values to `to`: those of all timesteps, or only the first if it is STATIC.
template <int T>
__device__ void put(const float (&x)[T], const View& to, long long at) {
  float* data = static_cast<float*>(to.data);
#pragma unroll
  for (int t = 0; t < T; ++t)
    if (t == 0 || to.kind == TIMED) data[at + t * to.step] = x[t];
}
