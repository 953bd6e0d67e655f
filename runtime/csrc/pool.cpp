#include "pool.h"

namespace spiketicket {

Pool::Pool(int threads) {
  try {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() {
  if (getpid() == owner_)
    stop();
  else
    for (std::thread& thread : workers_) thread.detach();
}

void Pool::stop() {
  stop_ = true;
  ++job_;
  job_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void Pool::run(int tasks, const std::function<void(int, int)>& body) {
  if (getpid() != owner_) {
    for (int task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  const std::lock_guard lock(one_job_);
  if (workers_.empty() || tasks == 1) {
    for (int task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  body_ = &body;
  tasks_ = tasks;
  next_ = 0;
  busy_ = static_cast<int>(workers_.size());
  ++job_;
  job_.notify_all();
  work(0);
  for (int busy = busy_; busy != 0; busy = busy_) busy_.wait(busy);
}

void Pool::work(int worker) {
  for (int task = next_++; task < tasks_; task = next_++) (*body_)(task, worker);
}

void Pool::serve(int worker) {
  for (unsigned seen = 0;;) {
    job_.wait(seen);
    seen = job_;
    if (stop_) return;
    work(worker);
    if (--busy_ == 0) busy_.notify_one();
  }
}

}  // namespace spiketicket
