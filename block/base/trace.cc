// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/base/trace.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "block/base/error.h"
#include "block/base/unique_fd.h"

namespace strata {
namespace {

struct TraceState {
  std::mutex mutex;
  std::vector<TracePoint*> points;
  // Replaced but never closed: another thread may be writing to it.
  std::atomic<int> fd{STDERR_FILENO};
};

// Lives as long as any static trace point may.
TraceState& state() {
  static TraceState& instance = *new TraceState;
  return instance;
}

}  // namespace

TracePoint::TracePoint(std::string name) : name_(std::move(name)) {
  std::lock_guard lock(state().mutex);
  state().points.push_back(this);
}

TracePoint::~TracePoint() {
  std::lock_guard lock(state().mutex);
  std::erase(state().points, this);
}

void TracePoint::write(const std::string& arguments) const {
  std::string line = arguments.empty() ? name_ + "\n" : name_ + " " + arguments + "\n";
  // One write a line keeps the lines of several threads apart.
  std::ignore = ::write(state().fd.load(), line.data(), line.size());
}

std::vector<std::string> trace_point_names() {
  std::vector<std::string> names;
  {
    std::lock_guard lock(state().mutex);
    for (const TracePoint* point : state().points) names.push_back(point->name());
  }
  std::ranges::sort(names);
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

size_t enable_trace_points(std::string_view pattern, bool on) {
  std::string wanted(pattern);
  size_t count = 0;
  std::lock_guard lock(state().mutex);
  for (TracePoint* point : state().points) {
    if (::fnmatch(wanted.c_str(), point->name().c_str(), FNM_NOESCAPE) != 0) continue;
    point->enable(on);
    ++count;
  }
  return count;
}

void trace_to_file(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666));
  if (!fd) throw Error::from_errno(errno, "Error opening logfile {}", path);
  state().fd.store(fd.release());
}

}  // namespace strata
