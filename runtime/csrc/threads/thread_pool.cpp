#include "threads/thread_pool.h"

#include <chrono>

namespace spiketicket {
namespace {

// The threads of a run finish within microseconds of each other, and waking one takes longer than that. So a thread
// spins for this long before it sleeps.
constexpr std::chrono::microseconds kSpin{100};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `value` is no longer `old`: spins at first, then sleeps.
template <class Number>
void await(const std::atomic<Number>& value, Number old) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; value.load(std::memory_order_acquire) == old; ++i) {
    pause();
    if (i % 64 == 63 && std::chrono::steady_clock::now() - begin > kSpin) {
      value.wait(old, std::memory_order_acquire);
      return;
    }
  }
}

}  // namespace

void Team::wait_for_all() {
  const unsigned barrier = barrier_.load(std::memory_order_acquire);
  if (++arrived_ == size_) {
    arrived_ = 0;
    next_ = 0;
    ++barrier_;
    barrier_.notify_all();
  } else {
    await(barrier_, barrier);
  }
}

ThreadPool::ThreadPool(int threads) {
  try {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() == owner_)
    stop();
  else
    for (std::thread& thread : workers_) thread.detach();
}

void ThreadPool::stop() {
  stop_ = true;
  ++job_;
  job_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

bool ThreadPool::run(int count, const std::function<void(int)>& body) {
  if (getpid() != owner_) return false;
  const std::lock_guard lock(one_job_);
  body_ = &body;
  count_ = count;
  busy_ = static_cast<int>(workers_.size());
  ++job_;
  job_.notify_all();
  body(0);
  for (int busy = busy_; busy != 0; busy = busy_) await(busy_, busy);
  return true;
}

void ThreadPool::serve(int worker) {
  for (unsigned seen = 0;;) {
    await(job_, seen);  // the next run often follows at once
    seen = job_;
    if (stop_) return;
    if (worker < count_) (*body_)(worker);
    if (--busy_ == 0) busy_.notify_one();
  }
}

}  // namespace spiketicket
