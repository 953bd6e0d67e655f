// What all kernels share: how values lie in memory, and the neuron.
//
// Spikes of one neuron are the bits of one word: bit t is timestep t. Images lie in planes with a border that stays zero,
// wide enough for whoever reads them, so that no kernel asks whether it is still inside. Numbers are float, one array per
// timestep (TIMED), or one for all of them (STATIC).
//
// T, the number of timesteps that a launch computes, is at most 8 and known at compile time. Longer runs are several
// launches, between which potentials are kept (`state`).

typedef unsigned char Word;

enum Kind { NONE, SPIKES, TIMED, STATIC };
enum Cell { PASS, HARD, SOFT, LEAK };  // what becomes of a current: itself, spikes with hard or soft reset, a potential

// An operand's arguments in the list of a kernel's, and the operand that they make.
#define OPERAND(p)                                                                                              \
  void *p##_data, int p##_kind, int p##_width, int p##_area, int p##_pitch, int p##_plane, long long p##_image, \
      long long p##_step
#define VIEW(p) \
  View { p##_data, p##_kind, p##_width, p##_area, p##_pitch, p##_plane, p##_image, p##_step }

#define CELL int cell, float keep, float gain, float level, float drop, float *state, const int *resume
#define NEURON \
  Neuron { cell, keep, gain, level, drop, state, resume }

struct View {
  void* data;  // the first element that is no border
  int kind;
  int width, area;  // of an image
  int pitch, plane;  // elements from one row, one channel to the next
  long long image, step;  // from one image, one timestep to the next

  __device__ long long at(int n, int feature) const {  // feature: as in a flattened image
    const int channel = feature / area, rest = feature % area;
    return n * image + static_cast<long long>(channel) * plane + rest / width * pitch + rest % width;
  }
};

// Adds what lies at `at` to the currents of T timesteps.
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

// Potentials are kept above rest. `state`: one per neuron where a run is several launches, else null; `resume`: 0 at
// the first of them.
struct Neuron {
  int cell;
  float keep, gain, level, drop;
  float* state;
  const int* resume;

  // Spikes as a word. Of LEAK, x becomes the potentials.
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

// Writes currents as `to` wants them, spikes aside.
template <int T>
__device__ void put(const float (&x)[T], const View& to, long long at) {
  float* data = static_cast<float*>(to.data);
#pragma unroll
  for (int t = 0; t < T; ++t)
    if (t == 0 || to.kind == TIMED) data[at + t * to.step] = x[t];
}
