// A few threads that live with a session: they sleep between runs and meet at barriers within one.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

namespace spiketicket {

// The threads of one run: every member executes the same sequence of for_each calls.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Runs body(task) for every task in [0, tasks), shared among the members; returns when all are done.
  template <class Body>
  void for_each(int tasks, const Body& body) {
    if (size_ == 1) {
      for (int task = 0; task < tasks; ++task) body(task);
      return;
    }
    for (int task = next_++; task < tasks; task = next_++) body(task);
    meet();
  }

 private:
  void meet();

  const int size_;
  std::atomic<int> next_{0};
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> meeting_{0};
};

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(worker) once on each of `count` threads, worker in [0, count); returns when all are done. One
  // job at a time: a second caller waits. `body` must not throw. Returns false, without calling anything, in
  // the child of a fork: it has no workers.
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
