// SPDX-License-Identifier: GPL-2.0-or-later
//
// An export: a node made available to the outside by some protocol. What all kinds share.
#pragma once

#include <memory>
#include <string>

#include "block/coro/task.h"
#include "block/io/backend.h"
#include "qapi/types_block_export.h"

namespace strata {

class ExportRegistry;

class Export {
 public:
  Export(std::string id, qapi::BlockExportType type) : id_(std::move(id)), type_(type) {}
  virtual ~Export() = default;
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  const std::string& id() const noexcept { return id_; }
  qapi::BlockExportType type() const noexcept { return type_; }
  bool is_shutting_down() const noexcept { return shutting_down_; }

  // The export's own handle on the node, while it is there.
  virtual Backend& backend() const noexcept = 0;
  // Clients at the moment.
  virtual size_t users() const noexcept = 0;

 protected:
  // Lets nobody in, sends those inside away, waits until they are gone, and closes the Backend.
  virtual Task<void> shut_down(MainLoop& loop) = 0;
  // What it served is gone from outside: it is removed as by block-export-del. Main loop only.
  void end(MainLoop& loop);

 private:
  friend class ExportRegistry;

  std::string id_;
  qapi::BlockExportType type_;
  bool shutting_down_ = false;
  bool ended_ = false;
  ExportRegistry* registry_ = nullptr;  // once it knows this export
};

}  // namespace strata
