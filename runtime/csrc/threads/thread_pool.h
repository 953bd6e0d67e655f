// The threads of a session. They sleep between runs and wait for each other at barriers within a run.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

namespace spiketicket {

// The threads that execute one run. Every member must make the same sequence of for_each calls.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs body(task) for every task in [0, tasks), divided among the members, and returns when all are done.
  template <class Body>
  void for_each(int tasks, const Body& body) {
    if (size_ == 1) {
      for (int task = 0; task < tasks; ++task) body(task);
      return;
    }
    for (int task = next_++; task < tasks; task = next_++) body(task);
    wait_for_all();
  }

 private:
  // Waits until all members have arrived: the barrier at the end of a for_each.
  void wait_for_all();

  const int size_;
  std::atomic<int> next_{0};
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> barrier_{0};  // counts barriers; members wait for it to change
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(worker) once on each of `count` threads, with worker in [0, count), and returns when all are done. The
  // pool runs one job at a time: a second caller waits. `body` must not throw. In the child of a fork, which has no
  // worker threads, returns false without calling anything.
  bool run(int count, const std::function<void(int worker)>& body);

 private:
  void serve(int worker);
  void stop();

  std::mutex one_job_;
  const std::function<void(int)>* body_ = nullptr;
  int count_ = 0;
  std::atomic<int> busy_{0};
  std::atomic<unsigned> job_{0};  // counts jobs; workers wait for it to change
  std::atomic<bool> stop_{false};
  const pid_t owner_ = getpid();
  std::vector<std::thread> workers_;
};

}  // namespace spiketicket
