// Keeps workspaces between runs. The last one that was given back is the first to be reused.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "network/value.h"

namespace spiketicket {

class WorkspacePool {
 public:
  std::unique_ptr<Workspace> borrow() {
    const std::lock_guard lock(mutex_);
    if (spare_.empty()) return std::make_unique<Workspace>();
    std::unique_ptr<Workspace> workspace = std::move(spare_.back());
    spare_.pop_back();
    return workspace;
  }

  void give_back(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard lock(mutex_);
    spare_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> spare_;
};

}  // namespace spiketicket
