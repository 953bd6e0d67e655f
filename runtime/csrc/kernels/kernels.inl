// The kernels, in one source for every instruction set; kernels.h says what each computes. The including file defines,
// in an anonymous namespace:
//   kIsa, kWidth (floats per vector), Vector and Unaligned (a vector of kWidth floats, and one anywhere in memory),
//   unsigned fires(Vector h, Vector level): bit i set where h[i] >= level[i];
//   Vector add_where(Vector sum, unsigned bits, Vector addend): adds where bit i is set;
//   uint32_t expand_word(uint64_t word, uint16_t base, uint16_t* events): base + the numbers of the set bits;
//   Table make_table(const float weight[4]): entry m = sum of weight[j] over the bits j of m, in order of j;
//   Vector look_up(const Table&, const uint8_t*): entries of kWidth consecutive bytes.
// Nothing here may call an inline library function: the linker could keep this file's copy of it,
// compiled for an instruction set that the CPU does not have, for the whole library.

namespace {

using namespace spiketicket;

constexpr int kParts = kLanes / kWidth;  // vectors per 16 lanes
constexpr unsigned kAll = (1u << kWidth) - 1;

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
inline void store(float* to, Vector v) { *reinterpret_cast<Unaligned*>(to) = v; }
inline Vector broadcast(float value) { return value - Vector{}; }

uint32_t expand(const uint64_t* words, int count, uint16_t base, uint16_t* events) {
  uint32_t total = 0;
  for (int i = 0; i < count; ++i)
    if (words[i] != 0) total += expand_word(words[i], uint16_t(base + i * kWord), events + total);
  return total;
}

uint32_t* list_rows(const Run* runs, size_t count, const EventSpan* spans, const uint16_t* events, uint32_t* rows) {
  typedef uint16_t Narrow __attribute__((vector_size(2 * kWidth), aligned(2), may_alias));
  typedef uint32_t Wide __attribute__((vector_size(4 * kWidth)));
  typedef uint32_t WideUnaligned __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
  for (size_t k = 0; k < count; ++k) {
    const uint32_t first = spans[runs[k].first].first;
    const uint32_t length = spans[runs[k].last].first + spans[runs[k].last].count - first;
    const uint16_t* from = events + first;
    const Wide row = Wide{} + runs[k].row;
    uint32_t i = 0;
    // Runs once even if there is no event: one vector mostly holds them all, so that the branch is predicted.
    do
      *reinterpret_cast<WideUnaligned*>(rows + i) =
          __builtin_convertvector(*reinterpret_cast<const Narrow*>(from + i), Wide) + row;
    while ((i += kWidth) < length);
    rows += length;
  }
  return rows;
}

template <int Vectors>
void gather_lists(const uint32_t* rows, const uint32_t* ends, size_t lists, const float* weights, const float* bias,
                  float* current) {
  constexpr int kCount = Vectors * kParts;
  const uint32_t* row = rows;
  for (size_t i = 0; i < lists; ++i, current += Vectors * kLanes) {
    Vector sums[kCount];
    for (int v = 0; v < kCount; ++v) sums[v] = load(bias + v * kWidth);
    for (const uint32_t* end = rows + ends[i]; row < end; ++row) {
      const float* weight = weights + size_t(*row) * (Vectors * kLanes);
#pragma GCC unroll 16
      for (int v = 0; v < kCount; ++v) sums[v] += load(weight + v * kWidth);
    }
    for (int v = 0; v < kCount; ++v) store(current + v * kWidth, sums[v]);
  }
}

void gather(const uint32_t* rows, const uint32_t* ends, size_t lists, const float* weights, int vectors,
            const float* bias, float* current) {
  switch (vectors) {
    case 1: gather_lists<1>(rows, ends, lists, weights, bias, current); break;
    case 2: gather_lists<2>(rows, ends, lists, weights, bias, current); break;
    case 3: gather_lists<3>(rows, ends, lists, weights, bias, current); break;
    default: gather_lists<4>(rows, ends, lists, weights, bias, current);
  }
}

void gather_sparse(const uint32_t* rows, const uint32_t* ends, size_t lists, const uint32_t* starts,
                   const uint16_t* columns, const float* weights, int vectors, const float* bias, float* current) {
  const int width = vectors * kLanes;
  const uint32_t* row = rows;
  for (size_t i = 0; i < lists; ++i, current += width) {
    for (int v = 0; v < width; v += kWidth) store(current + v, load(bias + v));
    for (const uint32_t* end = rows + ends[i]; row < end; ++row)
      for (uint32_t j = starts[*row]; j < starts[*row + 1]; ++j) current[columns[j]] += weights[j];
  }
}

template <int Pairs>
void gather_int16_lists(const uint32_t* rows, const uint32_t* ends, size_t lists, const int16_t* weights, int vectors,
                        const float* scale, const float* bias, float* current) {
  typedef int16_t Shorts __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
  typedef int16_t Half __attribute__((vector_size(2 * kWidth), aligned(2), may_alias));
  typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
  constexpr int kCount = Pairs * kParts;  // vectors of 2 * kWidth whole numbers
  const uint32_t* row = rows;
  for (size_t i = 0; i < lists; ++i, current += vectors * kLanes) {
    Ints totals[2 * kCount] = {};
    for (const uint32_t* end = rows + ends[i]; row < end;) {
      Shorts sums[kCount] = {};
      for (const uint32_t* stop = end - row < kExact ? end : row + kExact; row < stop; ++row) {
        const int16_t* weight = weights + size_t(*row) * (Pairs * 2 * kLanes);
#pragma GCC unroll 16
        for (int v = 0; v < kCount; ++v) sums[v] += *reinterpret_cast<const Shorts*>(weight + v * 2 * kWidth);
      }
#pragma GCC unroll 16
      for (int v = 0; v < kCount; ++v) {
        const Half* halves = reinterpret_cast<const Half*>(&sums[v]);
        totals[2 * v] += __builtin_convertvector(halves[0], Ints);
        totals[2 * v + 1] += __builtin_convertvector(halves[1], Ints);
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < 2 * kCount; ++v)
      if (v < vectors * kParts)
        store(current + v * kWidth,
              load(bias + v * kWidth) + __builtin_convertvector(totals[v], Vector) * load(scale + v * kWidth));
  }
}

void gather_int16(const uint32_t* rows, const uint32_t* ends, size_t lists, const int16_t* weights, int vectors,
                  const float* scale, const float* bias, float* current) {
  if (vectors <= 2)
    gather_int16_lists<1>(rows, ends, lists, weights, vectors, scale, bias, current);
  else
    gather_int16_lists<2>(rows, ends, lists, weights, vectors, scale, bias, current);
}

template <int Vectors>
void gather_real_rows(const Tap* taps, size_t count, const float* x, size_t stride, int channels, const float* weights,
                      const float* bias, float* current) {
  constexpr int kCount = Vectors * kParts;
  Vector sums[kCount];
  for (int v = 0; v < kCount; ++v) sums[v] = load(bias + v * kWidth);
  for (size_t k = 0; k < count; ++k) {
    const float* input = x + taps[k].position * stride;
    const float* weight = weights + size_t(taps[k].row) * (Vectors * kLanes);
    for (int c = 0; c < channels; ++c, weight += Vectors * kLanes) {
      const Vector value = broadcast(input[c]);
#pragma GCC unroll 16
      for (int v = 0; v < kCount; ++v) sums[v] += value * load(weight + v * kWidth);
    }
  }
  for (int v = 0; v < kCount; ++v) store(current + v * kWidth, sums[v]);
}

void gather_real(const Tap* taps, size_t count, const float* x, size_t stride, int channels, const float* weights,
                 int vectors, const float* bias, float* current) {
  switch (vectors) {
    case 1: gather_real_rows<1>(taps, count, x, stride, channels, weights, bias, current); break;
    case 2: gather_real_rows<2>(taps, count, x, stride, channels, weights, bias, current); break;
    case 3: gather_real_rows<3>(taps, count, x, stride, channels, weights, bias, current); break;
    default: gather_real_rows<4>(taps, count, x, stride, channels, weights, bias, current);
  }
}

void gather_real_sparse(const Tap* taps, size_t count, const float* x, size_t stride, int channels,
                        const uint32_t* starts, const uint16_t* columns, const float* weights, int vectors,
                        const float* bias, float* current) {
  for (int v = 0; v < vectors * kLanes; v += kWidth) store(current + v, load(bias + v));
  for (size_t k = 0; k < count; ++k)
    for (int c = 0; c < channels; ++c) {
      const float value = x[taps[k].position * stride + c];
      const uint32_t row = taps[k].row + c;
      if (value != 0.0f)
        for (uint32_t j = starts[row]; j < starts[row + 1]; ++j) current[columns[j]] += value * weights[j];
    }
}

void add_spikes(uint64_t spikes, int vectors, float* current) {
  for (int v = 0; v < vectors * kParts; ++v, spikes >>= kWidth)
    store(current + v * kWidth, add_where(load(current + v * kWidth), unsigned(spikes & kAll), broadcast(1.0f)));
}

void add_rows(const float* a, const float* b, size_t count, float* sum) {
  for (size_t i = 0; i < count; i += kWidth) store(sum + i, load(a + i) + load(b + i));
}

template <int Vectors, bool Soft>
void lif_block(const LifParameters& lif, const float* current, size_t current_step, int timesteps, float* u,
               uint64_t* spikes, size_t spikes_step) {
  constexpr int kCount = Vectors * kParts;
  const Vector keep = broadcast(lif.keep), gain = broadcast(lif.gain), level = broadcast(lif.level),
               drop = broadcast(lif.drop);
  Vector potential[kCount];
  for (int v = 0; v < kCount; ++v) potential[v] = u != nullptr ? load(u + v * kWidth) : Vector{};
  for (int t = 0; t < timesteps; ++t, current += current_step, spikes += spikes_step) {
    uint64_t fired = 0;
#pragma GCC unroll 16
    for (int v = 0; v < kCount; ++v) {
      const Vector h = potential[v] * keep + load(current + v * kWidth) * gain;
      fired |= uint64_t(fires(h, level)) << (v * kWidth);
      potential[v] = h >= level ? (Soft ? h - drop : Vector{}) : h;
    }
    *spikes = fired;
  }
  if (u != nullptr)
    for (int v = 0; v < kCount; ++v) store(u + v * kWidth, potential[v]);
}

template <bool Soft>
void lif_vectors(const LifParameters& lif, const float* current, size_t current_step, int timesteps, int vectors,
                 float* u, uint64_t* spikes, size_t spikes_step) {
  switch (vectors) {
    case 1: lif_block<1, Soft>(lif, current, current_step, timesteps, u, spikes, spikes_step); break;
    case 2: lif_block<2, Soft>(lif, current, current_step, timesteps, u, spikes, spikes_step); break;
    case 3: lif_block<3, Soft>(lif, current, current_step, timesteps, u, spikes, spikes_step); break;
    default: lif_block<4, Soft>(lif, current, current_step, timesteps, u, spikes, spikes_step);
  }
}

void lif(const LifParameters& lif, const float* current, size_t current_step, int timesteps, int vectors, float* u,
         uint64_t* spikes, size_t spikes_step) {
  if (lif.soft)
    lif_vectors<true>(lif, current, current_step, timesteps, vectors, u, spikes, spikes_step);
  else
    lif_vectors<false>(lif, current, current_step, timesteps, vectors, u, spikes, spikes_step);
}

// Computes R vectors of positions at TB timesteps. Their sums stay in registers while all taps are added.
template <int TB, int R>
void table_tile(const TableTap* taps, size_t count, float bias, const uint8_t* planes, size_t step, float* current,
                size_t current_step) {
  Vector sums[TB][R];
  for (int t = 0; t < TB; ++t)
    for (int r = 0; r < R; ++r) sums[t][r] = broadcast(bias);
  for (size_t i = 0; i < count; ++i) {
    const Table table = make_table(taps[i].weight);
    const uint8_t* s = planes + taps[i].offset;
#pragma GCC unroll 8
    for (int t = 0; t < TB; ++t, s += step)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[t][r] += look_up(table, s + r * kWidth);
  }
  for (int t = 0; t < TB; ++t)
    for (int r = 0; r < R; ++r) store(current + t * current_step + r * kWidth, sums[t][r]);
}

// Computes a whole plane at TB timesteps, in tiles of nearly equal width.
template <int TB>
void table_plane(const TableTap* taps, size_t count, float bias, const uint8_t* planes, size_t step, int positions,
                 float* current, size_t current_step) {
  constexpr int kMost = kTableRegisters / TB < 5 ? kTableRegisters / TB : 5;
  for (int left = (positions + kWidth - 1) / kWidth; left > 0;) {
    const int tiles = (left + kMost - 1) / kMost, wide = (left + tiles - 1) / tiles;
    switch (wide) {
      case 1: table_tile<TB, 1>(taps, count, bias, planes, step, current, current_step); break;
      case 2: table_tile<TB, 2>(taps, count, bias, planes, step, current, current_step); break;
      case 3: table_tile<TB, (kMost < 3 ? kMost : 3)>(taps, count, bias, planes, step, current, current_step); break;
      case 4: table_tile<TB, (kMost < 4 ? kMost : 4)>(taps, count, bias, planes, step, current, current_step); break;
      default: table_tile<TB, kMost>(taps, count, bias, planes, step, current, current_step);
    }
    planes += wide * kWidth;
    current += wide * kWidth;
    left -= wide;
  }
}

void accumulate_tables(const TableTap* taps, size_t count, float bias, const uint8_t* planes, size_t step,
                       int timesteps, int positions, float* current, size_t current_step) {
  while (timesteps > 0) {
    const int block = timesteps < 5 ? timesteps : 5;
    switch (block) {
      case 1: table_plane<1>(taps, count, bias, planes, step, positions, current, current_step); break;
      case 2: table_plane<2>(taps, count, bias, planes, step, positions, current, current_step); break;
      case 3: table_plane<3>(taps, count, bias, planes, step, positions, current, current_step); break;
      case 4: table_plane<4>(taps, count, bias, planes, step, positions, current, current_step); break;
      default: table_plane<5>(taps, count, bias, planes, step, positions, current, current_step);
    }
    timesteps -= block;
    planes += block * step;
    current += block * current_step;
  }
}

// Computes R times 16 positions at TB timesteps. Their sums stay in registers while all weights are added.
template <int TB, int R>
void masked_tile(const MaskTap* taps, size_t count, float bias, const uint16_t* masks, size_t row_step, size_t step,
                 float* current, size_t current_step) {
  Vector sums[TB][R * kParts];
  for (int t = 0; t < TB; ++t)
    for (int v = 0; v < R * kParts; ++v) sums[t][v] = broadcast(bias);
  for (size_t i = 0; i < count; ++i) {
    const Vector weight = broadcast(taps[i].weight);
    const uint16_t* bits = masks + taps[i].row * row_step;
#pragma GCC unroll 8
    for (int t = 0; t < TB; ++t, bits += step)
#pragma GCC unroll 16
      for (int v = 0; v < R * kParts; ++v)
        sums[t][v] = add_where(sums[t][v], unsigned(bits[v / kParts]) >> (v % kParts * kWidth) & kAll, weight);
  }
  for (int t = 0; t < TB; ++t)
    for (int v = 0; v < R * kParts; ++v) store(current + t * current_step + v * kWidth, sums[t][v]);
}

template <int TB>
void masked_plane(const MaskTap* taps, size_t count, float bias, const uint16_t* masks, size_t row_step, size_t step,
                  int vectors, float* current, size_t current_step) {
  constexpr int kFit = kTableRegisters / TB / kParts, kMost = kFit < 1 ? 1 : kFit < 4 ? kFit : 4;
  for (int left = vectors; left > 0;) {
    const int tiles = (left + kMost - 1) / kMost, wide = (left + tiles - 1) / tiles;
    switch (wide) {
      case 1: masked_tile<TB, 1>(taps, count, bias, masks, row_step, step, current, current_step); break;
      case 2:
        masked_tile<TB, (kMost < 2 ? kMost : 2)>(taps, count, bias, masks, row_step, step, current, current_step);
        break;
      case 3:
        masked_tile<TB, (kMost < 3 ? kMost : 3)>(taps, count, bias, masks, row_step, step, current, current_step);
        break;
      default: masked_tile<TB, kMost>(taps, count, bias, masks, row_step, step, current, current_step);
    }
    masks += wide;
    current += wide * kLanes;
    left -= wide;
  }
}

void accumulate_masked(const MaskTap* taps, size_t count, float bias, const uint16_t* masks, size_t row_step,
                       size_t step, int timesteps, int vectors, float* current, size_t current_step) {
  while (timesteps > 0) {
    const int block = timesteps < 5 ? timesteps : 5;
    switch (block) {
      case 1: masked_plane<1>(taps, count, bias, masks, row_step, step, vectors, current, current_step); break;
      case 2: masked_plane<2>(taps, count, bias, masks, row_step, step, vectors, current, current_step); break;
      case 3: masked_plane<3>(taps, count, bias, masks, row_step, step, vectors, current, current_step); break;
      case 4: masked_plane<4>(taps, count, bias, masks, row_step, step, vectors, current, current_step); break;
      default: masked_plane<5>(taps, count, bias, masks, row_step, step, vectors, current, current_step);
    }
    timesteps -= block;
    masks += block * step;
    current += block * current_step;
  }
}

constexpr Kernels kKernels = {kIsa,
                              expand,
                              list_rows,
                              gather,
                              gather_sparse,
                              gather_int16,
                              gather_real,
                              gather_real_sparse,
                              add_spikes,
                              add_rows,
                              lif,
                              accumulate_tables,
                              accumulate_masked};

}  // namespace
