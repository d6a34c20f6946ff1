// SPDX-License-Identifier: GPL-2.0-or-later
//
// Trace points: places in the program that can be told to say that they were passed.
//
//   namespace {
//   TracePoint trace_export_add("blk_exp_add");
//   }
//   ...
//   trace_export_add("id {} node {}", id, node.name());
//
// While it is off, a trace point costs one relaxed load. Names are QEMU's where it has the same
// point. Lines go to standard error, or to one file, as "NAME ARGUMENTS".
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace strata {

// Belongs to the place it stands for; all that exist are known by name while they exist. This list
// and the file are the process's, as standard error is.
class TracePoint {
 public:
  explicit TracePoint(std::string name);
  ~TracePoint();
  TracePoint(const TracePoint&) = delete;
  TracePoint& operator=(const TracePoint&) = delete;

  const std::string& name() const noexcept { return name_; }
  bool is_enabled() const noexcept { return enabled_.load(std::memory_order_relaxed); }
  void enable(bool on) noexcept { enabled_.store(on, std::memory_order_relaxed); }

  // Any thread.
  template <class... Args>
  void operator()(fmt::format_string<Args...> format, Args&&... args) const {
    if (is_enabled()) [[unlikely]]
      write(fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  void write(const std::string& arguments) const;

  std::string name_;
  std::atomic<bool> enabled_{false};
};

// Sorted, each once.
std::vector<std::string> trace_point_names();
// Switches all that `pattern` names ('*' stands for any text); yields how many those are.
size_t enable_trace_points(std::string_view pattern, bool on);
// From now on lines go to the file `path`. Throws Error.
void trace_to_file(const std::string& path);

}  // namespace strata
