// A layer that reads spikes, on the tensor cores: a product of the weights with the spikes of each timestep.
//
// A block computes 64 output channels x 32 positions, each of its four warps 8 positions at all T. Weights pass through
// shared memory in the order in which lanes hold them. They are dense in memory, or (SPARSE) nonzeros that are
// scattered into zeros in shared memory, so that zeros cost no memory traffic, though they do cost products.
//
// Weights are float16, scaled per row by a power of two. With PARTS == 2 a second float16 holds the rounding error of
// the first, times 2^11; in its product spikes count 2^-11 instead of 1. Products with spikes are exact, and a weight
// loses less than 2^-22 of the largest of its row. Sums are float32. Tensor cores truncate where others round, always
// towards zero, and a long sum would accumulate this error. So with two parts they sum 16 columns from zero, and
// ordinary additions sum the results. (One part is so coarse that it does not matter.)

const int TILE_ROWS = 64, TILE_DEPTH = 64, TILE = TILE_ROWS * TILE_DEPTH;

// Computes c += a * b for a 16 x 16 and a 16 x 8 matrix, in the layout of mma.m16n8k16 (PTX ISA, "Matrix Fragments").
// All lanes must take part; `volatile` keeps the compiler from moving it to where some do not.
__device__ inline void multiply_add(float (&c)[4], const uint4& a, const uint2& b) {
#if !defined(__CUDA_ARCH__)
  emulated_mma(c, a, b);
#elif __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a.x), "r"(a.y), "r"(b.x));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a.z), "r"(a.w), "r"(b.y));
#endif
}

// One nonzero: its index in a tile, and its float16 parts.
struct Entry {
  unsigned short place, parts[2], unused;
};

// Fills a tile of shared memory with the weights of tile `index`: a copy, or with SPARSE its nonzeros
// [starts[index], starts[index + 1]) among zeros. All threads of the block must call it, and synchronise afterwards.
template <int PARTS, bool SPARSE>
__device__ void fill(uint4 (&tile)[PARTS][TILE / 8], const void* weights, const int* starts, int index) {
  if constexpr (!SPARSE) {
    const uint4* from = static_cast<const uint4*>(weights) + static_cast<long long>(index) * PARTS * (TILE / 8);
    for (int i = threadIdx.x; i < PARTS * (TILE / 8); i += blockDim.x) (&tile[0][0])[i] = from[i];
  } else {
    for (int i = threadIdx.x; i < PARTS * (TILE / 8); i += blockDim.x) (&tile[0][0])[i] = uint4{0, 0, 0, 0};
    __syncthreads();
    const Entry* entries = static_cast<const Entry*>(weights);
    for (int i = starts[index] + threadIdx.x; i < starts[index + 1]; i += blockDim.x)
      for (int part = 0; part < PARTS; ++part)
        reinterpret_cast<unsigned short*>(tile[part])[entries[i].place] = entries[i].parts[part];
  }
}

// Computes rows x height x width outputs of `images` images: the product of the weights, `depth` columns wide, with the
// spikes at the columns' `offsets` from the window's corner, times scales[row], plus bias[row] and `other`, through the
// neuron to `out`. With POOL, the spikes are combined by a bitwise or over windows of 2 x 2. A block is 128 threads; the
// grid covers the positions by 32 and the rows by 64.
template <int T, int PARTS, bool SPARSE, bool POOL>
__global__ void __launch_bounds__(128)
    tensor(const Word* in, long long in_image, int down, int right, const void* weights, const int* starts,
           const int* offsets,  // of each column of the weights from the window's corner
           const float* scales, const float* bias, int rows, int depth, int height, int width, int images,
           OPERAND(other), OPERAND(out), CELL) {
  __shared__ uint4 tile[PARTS][TILE / 8];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4;
  // Columns of a product are positions; with POOL, those of two windows of 2 x 2, one behind the other.
  const int high = POOL ? height / 2 : height, wide = POOL ? width / 2 : width;
  const long long columns = static_cast<long long>(images) * high * wide * (POOL ? 4 : 1);
  const long long first = (static_cast<long long>(blockIdx.x) * 4 + warp) * 8;

  struct Position {
    int n, top, left;
    __device__ Position(long long column, int high, int wide) {
      const int inner = POOL ? static_cast<int>(column % 4) : 0;
      const long long patch = POOL ? column / 4 : column;
      n = static_cast<int>(patch / (high * wide));
      const int place = static_cast<int>(patch % (high * wide));
      top = place / wide * (POOL ? 2 : 1) + inner / 2;
      left = place % wide * (POOL ? 2 : 1) + inner % 2;
    }
  };
  const long long own = first + group;
  const Position from(own < columns ? own : columns - 1, high, wide);
  const Word* corner = in + from.n * in_image + static_cast<long long>(from.top) * down + from.left * right;

  float sums[4][T][4] = {};
  const int chunks = (depth + TILE_DEPTH - 1) / TILE_DEPTH;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int index = blockIdx.y * chunks + chunk;
    if (SPARSE && starts[index] == starts[index + 1]) continue;
    __syncthreads();
    fill<PARTS, SPARSE>(tile, weights, starts, index);
    __syncthreads();
#pragma unroll 1  // more at a time would not fit into registers
    for (int slab = 0; slab < TILE_DEPTH / 16; ++slab) {
      const int* k = offsets + chunk * TILE_DEPTH + slab * 16 + quad * 2;
      const unsigned low = corner[k[0]] | static_cast<unsigned>(corner[k[1]]) << 16;
      const unsigned up = corner[k[8]] | static_cast<unsigned>(corner[k[9]]) << 16;
      uint4 a[PARTS][4];
#pragma unroll
      for (int part = 0; part < PARTS; ++part)
#pragma unroll
        for (int m = 0; m < 4; ++m) a[part][m] = tile[part][(slab * 4 + m) * 32 + lane];
#pragma unroll
      for (int t = 0; t < T; ++t) {
        const uint2 ones = {low >> t & 0x10001u, up >> t & 0x10001u};
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          const uint2 first = {ones.x * 0x3c00u, ones.y * 0x3c00u};  // 1 in float16
          if constexpr (PARTS == 1) {
            multiply_add(sums[m][t], a[0][m], first);
          } else {
            float sum[4] = {};
            multiply_add(sum, a[1][m], uint2{ones.x * 0x1000u, ones.y * 0x1000u});  // 2^-11
            multiply_add(sum, a[0][m], first);
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][t][i] += sum[i];
          }
        }
      }
    }
  }

  const View added = VIEW(other), to = VIEW(out);
  const Neuron neuron = NEURON;
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = blockIdx.y * TILE_ROWS + m * 16 + half * 8 + group;
      unsigned window = 0;
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const long long column = first + quad * 2 + side;
        if (row >= rows || column >= columns) continue;
        const Position at(column, high, wide);
        const int feature = (row * height + at.top) * width + at.left;
        float x[T];
#pragma unroll
        for (int t = 0; t < T; ++t) x[t] = sums[m][t][half * 2 + side] * scales[row] + bias[row];
        if (added.kind) add<T>(x, added, added.at(at.n, feature));
        if (cell == PASS) {
          put<T>(x, to, to.at(at.n, feature));
          continue;
        }
        const unsigned word = neuron.run<T>(x, static_cast<long long>(at.n) * rows * height * width + feature);
        window |= word;
        if (!POOL) static_cast<Word*>(out_data)[to.at(at.n, feature)] = word;
      }
      if (POOL) {  // the upper two positions of a window are in one lane, the lower two in the next
        window |= __shfl_xor_sync(0xffffffffu, window, 1);
        const long long column = first + quad * 2;
        if (quad % 2 == 0 && row < rows && column < columns) {
          const Position at(column, high, wide);
          static_cast<Word*>(out_data)[to.at(at.n, (row * high + at.top / 2) * wide + at.left / 2)] = window;
        }
      }
    }
}
