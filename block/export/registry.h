// SPDX-License-Identifier: GPL-2.0-or-later
//
// All exports of a block layer, of every kind.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/coro/event.h"
#include "block/coro/scope.h"
#include "block/export/export.h"
#include "block/graph/layer.h"

namespace strata {

// What a kind of export is made from, besides its options.
struct ExportParts {
  MainLoop& loop;
  BlockLayer& layer;
  const qapi::BlockExportOptions& options;
  std::unique_ptr<Backend> backend;  // attached; reads, and writes if `writable`
  // Where requests are served: in the iothreads' contexts, or at the node's home. Not empty.
  std::vector<AioContext*> contexts;
  // The context of an iothread object. Throws Error where there is none of that name.
  const std::function<AioContext&(const std::string& name)>& find_iothread;
};

// The iothreads that an export is to use; empty: the node's. Throws Error.
std::vector<std::string> iothread_names(const qapi::BlockExportOptions& options);

// Main loop only.
class ExportRegistry {
 public:
  // Throws Error; closes parts.backend then.
  using Factory = std::function<Task<std::unique_ptr<Export>>(ExportParts parts)>;
  // The context of an iothread object. Throws Error where there is none of that name.
  using FindIothread = std::function<AioContext&(const std::string& name)>;

  ExportRegistry(BlockLayer& layer, FindIothread find_iothread);
  // Closed before.
  ~ExportRegistry();

  // Which kinds can be made; the others are answered as not built.
  void register_type(qapi::BlockExportType type, Factory factory);
  bool has_type(qapi::BlockExportType type) const noexcept;

  // For block-export-add. Throws Error, with nothing left behind.
  Task<void> add(MainLoop& loop, qapi::BlockExportOptions options);
  // For block-export-del. Without clients, it is gone when the task ends; with clients to be sent
  // away, the event BLOCK_EXPORT_DELETED tells when. Throws Error.
  Task<void> remove(MainLoop& loop, std::string id, qapi::BlockExportRemoveMode mode);
  using Which = std::function<bool(const Export& known)>;
  // Shuts down all, or those meant, and waits until they are gone.
  Task<void> remove_all(MainLoop& loop, Which which = {});

  const std::vector<std::shared_ptr<Export>>& all() const noexcept { return exports_; }
  std::shared_ptr<Export> find(std::string_view id) const noexcept;
  // For query-block-exports: the latest first.
  std::vector<qapi::BlockExportInfo> query() const;

 private:
  struct Type {
    qapi::BlockExportType type;
    Factory factory;
  };

  friend class Export;

  std::vector<AioContext*> contexts_for(const qapi::BlockExportOptions& options,
                                        const Node& node) const;
  void take_in(MainLoop& loop, std::shared_ptr<Export> made);
  void begin_shutdown(MainLoop& loop, std::shared_ptr<Export> target);
  Task<void> shut_down(MainLoop& loop, std::shared_ptr<Export> target);
  Task<void> next_removal();

  BlockLayer& layer_;
  FindIothread find_iothread_;
  std::vector<Type> types_;
  std::vector<std::shared_ptr<Export>> exports_;
  std::vector<std::string> being_added_;  // ids taken by an add() that waits
  Event removed_;                         // set whenever one has gone
  TaskScope scope_;
};

}  // namespace strata
