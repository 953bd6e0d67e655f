// Runs CUDA kernels on the CPU: just as much of CUDA as runtime/cuda and train/cuda use.
//
// The threads of a block are fibers of one thread of the CPU, run in turn until they end or meet a barrier; blocks run
// one after the other. A barrier that not all threads of a block (or lanes of a warp) reach is an error, as is memory
// outside of arrays (cupy_standin.py). Between barriers threads run first to last, the next time last to first: where
// they race, one of the two is wrong. What it cannot show: what the hardware does, and speed.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(n)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct int2 {
  int x, y;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::max;
using std::min;

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

namespace emulator {

const int WARP = 32;
const size_t STACK = 1 << 18;

// A fiber outlasts a block: it then runs a thread of the next one. It begins by swapcontext; after that, jumps spare
// the system calls.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<char[]> stack{new char[STACK]};
  dim3 thread;
  bool done = false;
  const void* waits_for = nullptr;  // the block, or its warp
};

struct Block {
  std::vector<Fiber> fibers;
  int count = 0, current = 0;
  bool backward = false;  // in which order threads have their turns
  jmp_buf place;  // of the scheduler
  unsigned exchanged[1024][8];
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
};

inline Block block;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

inline void leave(Fiber& own) {
  if (!_setjmp(own.place)) _longjmp(block.place, 1);
}

inline void enter() {
  for (;;) {
    Fiber& own = block.fibers[block.current];
    block.body(block.argument);
    own.done = true;
    leave(own);
  }
}

inline void resume(Fiber& fiber) {
  if (_setjmp(block.place)) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
  setcontext(&fiber.context);
}

inline void barrier(const void* what) {
  Fiber& own = block.fibers[block.current];
  own.waits_for = what;
  leave(own);
}

// Whether threads `first` to `last` wait for each other, all of them; then they go on.
inline bool released(int first, int last, const void* what) {
  for (int i = first; i < last; ++i)
    if (block.fibers[i].done || block.fibers[i].waits_for != what) return false;
  for (int i = first; i < last; ++i) block.fibers[i].waits_for = nullptr;
  return true;
}

inline const void* warp_of(int thread) { return &block.exchanged[thread / WARP * WARP]; }

inline void run_block() {
  for (int i = 0; i < block.count; ++i) {
    block.fibers[i].done = false;
    block.fibers[i].waits_for = nullptr;
  }
  for (int left = block.count; left;) {
    bool moved = false;
    for (int k = 0; k < block.count; ++k) {
      const int i = block.backward ? block.count - 1 - k : k;
      Fiber& fiber = block.fibers[i];
      if (fiber.done || fiber.waits_for) continue;
      moved = true;
      block.current = i;
      threadIdx = fiber.thread;
      resume(fiber);
      left -= fiber.done;
    }
    if (moved) block.backward = !block.backward;
    if (moved || !left) continue;
    bool any = released(0, block.count, &block);
    for (int i = 0; i < block.count && !any; i += WARP) any |= released(i, std::min(i + WARP, block.count), warp_of(i));
    if (!any) fail("threads wait at a barrier that others do not reach");
  }
}

inline void launch(dim3 grid, dim3 threads, void (*body)(void*), void* argument) {
  block.count = threads.x * threads.y * threads.z;
  if (block.count > 1024) fail("more than 1024 threads in a block");
  if (static_cast<int>(block.fibers.size()) < block.count) block.fibers.resize(block.count);
  block.body = body;
  block.argument = argument;
  blockDim = threads;
  gridDim = grid;
  for (int i = 0; i < block.count; ++i)
    block.fibers[i].thread = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block();
}

// What all lanes of the warp hand in, after all of them have.
template <int N>
inline const unsigned (*exchange(const unsigned (&values)[N]))[8] {
  static_assert(N <= 8);
  std::copy(values, values + N, block.exchanged[block.current]);
  barrier(warp_of(block.current));
  return block.exchanged + block.current / WARP * WARP;
}

// A kernel's arguments as CUDA takes them: pointers to their values.
template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <auto KERNEL, class... A>
void invoke(void (*)(A...), unsigned* shape, void** arguments) {
  launch(
      {shape[0], shape[1], shape[2]}, {shape[3], shape[4], shape[5]},
      [](void* a) {
        call(static_cast<void (*)(A...)>(KERNEL), static_cast<void**>(a), std::index_sequence_for<A...>());
      },
      arguments);
}

}  // namespace emulator

inline void __syncthreads() { emulator::barrier(&emulator::block); }

template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) == 4);
  unsigned own[1];
  std::memcpy(own, &value, 4);
  const auto all = emulator::exchange(own);
  std::memcpy(&value, all[emulator::block.current % emulator::WARP ^ mask], 4);
  emulator::barrier(emulator::warp_of(emulator::block.current));
  return value;
}

// Every float16 as a float, and the nearest to a float, of two as near the even one.
struct Halves {
  float values[1 << 16];

  unsigned short nearest(float x) const {
    const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
    const float size = std::fabs(x);
    if (!(size < 65520.0f)) return sign | (size >= 65520.0f ? 0x7c00u : 0x7e00u);
    const float* above = std::lower_bound(values, values + 0x7c00, size);  // the first that is not smaller
    unsigned bits = static_cast<unsigned>(above - values);
    if (bits) {
      const float up = bits == 0x7c00u ? 65536.0f : *above, down = values[bits - 1];
      if (size - down < up - size || (size - down == up - size && (bits - 1) % 2 == 0)) --bits;
    }
    return sign | bits;
  }

  Halves() {
    for (unsigned bits = 0; bits < 1 << 16; ++bits) {
      const int exponent = bits >> 10 & 31, fraction = bits & 1023;
      float value =
          exponent ? std::ldexp(1.0f + fraction / 1024.0f, exponent - 15) : std::ldexp(fraction / 1024.0f, -14);
      if (exponent == 31) value = fraction ? NAN : INFINITY;
      values[bits] = bits >> 15 ? -value : value;
    }
  }
};

inline const Halves halves;

// What a tensor core makes of terms of exact products: all are cut off at the last digit that the largest has as a
// float, and so is their sum (Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021; GPUs
// keep up to two digits more).
template <int N>
inline float cut_sum(const double (&terms)[N]) {
  double largest = 0, plain = 0;
  for (double term : terms) {
    largest = std::max(largest, std::fabs(term));
    plain += term;
  }
  if (largest == 0 || !std::isfinite(plain)) return static_cast<float>(plain);
  unsigned long long bits;
  std::memcpy(&bits, &largest, 8);
  bits = (2 * 1023 + 23 - (bits >> 52)) << 52;  // 2^23 over the largest's power of two
  double up;
  std::memcpy(&up, &bits, 8);
  long long sum = 0;
  for (double term : terms) sum += static_cast<long long>(term * up);
  const double whole = static_cast<double>(sum) / up;
  const float near = static_cast<float>(whole);
  return std::fabs(near) > std::fabs(whole) ? std::nextafter(near, 0.0f) : near;
}

// mma.m16n8k16, float16 times float16 to float32, eight products at a time. Lane 4 g + q holds of a, two by two, (g,
// 2q), (g + 8, 2q), (g, 2q + 8), (g + 8, 2q + 8); of b (2q, g), (2q + 8, g); of c (g, 2q), (g + 8, 2q).
inline void emulated_mma(float (&c)[4], const uint4& a, const uint2& b) {
  const unsigned own[6] = {a.x, a.y, a.z, a.w, b.x, b.y};
  const auto all = emulator::exchange(own);
  const int lane = emulator::block.current % emulator::WARP, g = lane / 4, q = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g, high = i / 2, column = 2 * q + i % 2;
    for (int late = 0; late < 2; ++late) {
      double terms[9] = {c[i]};
      for (int k = 0; k < 8; ++k) {
        const int quad = k / 2, shift = k % 2 * 16;
        const unsigned left = all[row * 4 + quad][high + 2 * late] >> shift & 0xffffu;
        const unsigned right = all[column * 4 + quad][4 + late] >> shift & 0xffffu;
        terms[1 + k] = static_cast<double>(halves.values[left]) * halves.values[right];
      }
      c[i] = cut_sum(terms);
    }
  }
  emulator::barrier(emulator::warp_of(emulator::block.current));
}
