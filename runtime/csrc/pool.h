// A few threads that live with a session and sleep between jobs.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

namespace spiketicket {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, worker) for every task in [0, tasks), worker in [0, size()); returns when all are
  // done. One job at a time: a second caller waits. `body` must not throw. After a fork the child has no
  // workers: it runs its tasks alone.
  void run(int tasks, const std::function<void(int task, int worker)>& body);

 private:
  void serve(int worker);
  void stop();
  void work(int worker);

  std::mutex one_job_;
  const std::function<void(int, int)>* body_ = nullptr;
  int tasks_ = 0;
  std::atomic<int> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<unsigned> job_{0};  // counts jobs; workers wait for it to change
  std::atomic<bool> stop_{false};
  const pid_t owner_ = getpid();
  std::vector<std::thread> workers_;
};

}  // namespace spiketicket
