// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/registry.h"

#include <algorithm>
#include <cassert>

#include "block/base/error.h"
#include "block/graph/activity.h"

namespace strata {
namespace {

// Takes an id while an export is being made, so that nobody else does.
class Reservation {
 public:
  Reservation(std::vector<std::string>& ids, const std::string& id) : ids_(ids), id_(id) {
    ids_.push_back(id);
  }
  ~Reservation() { std::erase(ids_, id_); }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

 private:
  std::vector<std::string>& ids_;
  std::string id_;
};

Permissions permissions_for(bool writable) {
  Permissions permissions;
  permissions.needed = Permission::consistent_read;
  if (writable) permissions.needed |= Permission::write;
  return permissions;
}

}  // namespace

ExportRegistry::ExportRegistry(BlockLayer& layer, FindIothread find_iothread)
    : layer_(layer), find_iothread_(std::move(find_iothread)) {}

ExportRegistry::~ExportRegistry() {
  assert(exports_.empty() && "exports go before their registry");
}

void ExportRegistry::register_type(qapi::BlockExportType type, Factory factory) {
  types_.push_back({type, std::move(factory)});
}

bool ExportRegistry::has_type(qapi::BlockExportType type) const noexcept {
  return std::any_of(types_.begin(), types_.end(),
                     [type](const Type& known) { return known.type == type; });
}

std::shared_ptr<Export> ExportRegistry::find(std::string_view id) const noexcept {
  for (const auto& known : exports_) {
    if (known->id() == id) return known;
  }
  return nullptr;
}

Task<void> ExportRegistry::add(MainLoop& loop, qapi::BlockExportOptions options) {
  if (!is_wellformed_id(options.id)) throw Error("Invalid block export id");
  bool reserved =
      std::find(being_added_.begin(), being_added_.end(), options.id) != being_added_.end();
  if (find(options.id) != nullptr || reserved)
    throw Error("Block export id '{}' is already in use", options.id);
  auto type = std::find_if(types_.begin(), types_.end(),
                           [&](const Type& known) { return known.type == options.type; });
  if (type == types_.end()) throw Error("No driver found for the requested export type");
  Reservation reservation(being_added_, options.id);

  NodePtr node = layer_.find_node(options.node_name);
  if (!node || !node->is_open())
    throw Error("Cannot find device='' nor node-name='{}'", options.node_name);
  bool writable = options.writable.value_or(false);
  if (writable && node->is_read_only()) throw Error("Cannot export read-only node as writable");
  std::vector<AioContext*> contexts = contexts_for(options, *node);
  bool allow_inactive = options.allow_inactive.value_or(false);
  if (!allow_inactive) co_await set_active(loop, *node, true);

  auto backend = std::make_unique<Backend>(layer_);
  backend->allow_inactive(allow_inactive);
  backend->allow_context_change(!options.fixed_iothread.value_or(false));
  backend->set_write_cache(!options.writethrough.value_or(false));
  backend->attach(loop, std::move(node), permissions_for(writable));
  take_in(loop, co_await type->factory(ExportParts{loop, layer_, options, std::move(backend),
                                                   std::move(contexts), find_iothread_}));
}

void ExportRegistry::take_in(MainLoop& loop, std::shared_ptr<Export> made) {
  made->registry_ = this;
  exports_.push_back(made);
  if (made->ended_) begin_shutdown(loop, std::move(made));
}

void Export::end(MainLoop& loop) {
  ended_ = true;
  if (registry_ != nullptr && !shutting_down_)
    registry_->begin_shutdown(loop, registry_->find(id_));
}

std::vector<std::string> iothread_names(const qapi::BlockExportOptions& options) {
  std::vector<std::string> names;
  if (options.iothread) {
    if (const auto* one = std::get_if<std::string>(&*options.iothread)) {
      names.push_back(*one);
    } else {
      names = std::get<std::vector<std::string>>(*options.iothread);
      if (names.empty()) throw Error("The list of I/O threads is empty");
    }
  }
  const auto* vhost_user = options.get_if<qapi::BlockExportOptionsVhostUserBlk>();
  if (vhost_user != nullptr && vhost_user->iothread_vq_mapping) {
    for (const auto& entry : *vhost_user->iothread_vq_mapping) names.push_back(entry.iothread);
  }
  return names;
}

std::vector<AioContext*> ExportRegistry::contexts_for(const qapi::BlockExportOptions& options,
                                                      const Node& node) const {
  std::vector<AioContext*> contexts;
  for (const std::string& name : iothread_names(options)) contexts.push_back(&find_iothread_(name));
  if (contexts.empty()) contexts.push_back(&node.home_context());
  return contexts;
}

Task<void> ExportRegistry::remove(MainLoop& loop, std::string id,
                                  qapi::BlockExportRemoveMode mode) {
  std::shared_ptr<Export> target = find(id);
  if (!target) throw Error("Export '{}' is not found", id);
  if (target->shutting_down_) throw Error("Export '{}' is already shutting down", id);
  if (mode == qapi::BlockExportRemoveMode::safe && target->users() != 0)
    throw Error("export '{}' still in use", id)
        .hint("Use mode='hard' to force client disconnect\n");
  bool has_clients = target->users() != 0;
  begin_shutdown(loop, target);
  while (!has_clients && find(id) == target) co_await next_removal();
}

Task<void> ExportRegistry::next_removal() {
  removed_.reset();
  co_await removed_.wait();
}

void ExportRegistry::begin_shutdown(MainLoop& loop, std::shared_ptr<Export> target) {
  target->shutting_down_ = true;
  scope_.spawn(shut_down(loop, std::move(target)));
}

Task<void> ExportRegistry::shut_down(MainLoop& loop, std::shared_ptr<Export> target) {
  co_await target->shut_down(loop);
  std::erase(exports_, target);
  layer_.emit("BLOCK_EXPORT_DELETED", {{"id", target->id()}});
  removed_.set();
}

Task<void> ExportRegistry::remove_all(MainLoop& loop, Which which) {
  auto is_meant = [&](const auto& known) { return !which || which(*known); };
  std::vector<std::shared_ptr<Export>> targets = exports_;
  for (std::shared_ptr<Export>& target : targets) {
    if (is_meant(target) && !target->shutting_down_) begin_shutdown(loop, std::move(target));
  }
  while (std::ranges::any_of(exports_, is_meant)) co_await next_removal();
  if (!which) co_await scope_.join();
}

std::vector<qapi::BlockExportInfo> ExportRegistry::query() const {
  std::vector<qapi::BlockExportInfo> result;
  for (auto known = exports_.rbegin(); known != exports_.rend(); ++known) {
    qapi::BlockExportInfo info;
    info.id = (*known)->id();
    info.type = (*known)->type();
    info.node_name = (*known)->backend().node().name();
    info.shutting_down = (*known)->shutting_down_;
    result.push_back(std::move(info));
  }
  return result;
}

}  // namespace strata
