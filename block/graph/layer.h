// SPDX-License-Identifier: GPL-2.0-or-later
//
// BlockLayer: everything there is one of. A process may have several.
#pragma once

#include <boost/json/object.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "block/aio/main_loop.h"
#include "block/graph/driver.h"
#include "block/graph/node.h"

namespace strata {

class PassedFds;
class TlsCredentials;

// What nodes need of the program around them.
struct Surroundings {
  // Descriptors by number or name; null: there are none.
  PassedFds* passed_fds = nullptr;
  // The user's object of that id; throws Error where there is none.
  std::function<std::shared_ptr<TlsCredentials>(const std::string& id)> find_tls_credentials;
  // The bytes that a secret object holds; nothing where there is none of that id.
  std::function<std::optional<std::string>(std::string_view id)> find_secret;
};

// News for the monitors: the event's name and its data. Called in the main loop.
using EventSink = std::function<void(std::string_view name, boost::json::object data)>;

class BlockLayer {
 public:
  BlockLayer(MainLoop& loop, std::span<const DriverDescriptor* const> drivers, EventSink events);
  // All nodes have been closed.
  ~BlockLayer();

  MainLoop& main_loop() const noexcept { return loop_; }
  // Set before there are nodes.
  void set_surroundings(Surroundings surroundings) { surroundings_ = std::move(surroundings); }
  const Surroundings& surroundings() const noexcept { return surroundings_; }
  std::span<const DriverDescriptor* const> drivers() const noexcept { return drivers_; }
  // Null if it is not built.
  const DriverDescriptor* find_driver(qapi::BlockdevDriver name) const noexcept;

  // In the order of their making.
  const std::vector<Node*>& nodes() const noexcept { return nodes_; }
  // Null if there is none. The node may be half open: it has its name already.
  NodePtr find_node(std::string_view name) const noexcept;
  // By device (Backend) name or node name; throws "Cannot find device='' nor node-name=''". A
  // Backend has a name only where tools and stand-ins give it one.
  NodePtr lookup_node(std::string_view name) const;

  // The nodes that blockdev-add made and blockdev-del may take away.
  const std::vector<NodePtr>& monitor_nodes() const noexcept { return monitor_nodes_; }
  void add_monitor_node(NodePtr node) { monitor_nodes_.push_back(std::move(node)); }
  bool is_monitor_node(const Node& node) const noexcept;
  void forget_monitor_node(const Node& node) noexcept;

  // "#blockNNN", not in use.
  std::string generate_node_name();
  // Throws for a name that is not well-formed or taken.
  void check_node_name(std::string_view name) const;

  // The bytes of a secret that options name. Throws "No secret with id '...'".
  std::string secret(std::string_view id) const;

  // Any thread. In the main loop, the sink is called at once; from elsewhere, on a later turn.
  void emit(std::string_view event, boost::json::object data);

  // Whether persistent bitmaps are kept such that a power cut costs them nothing: on the disk they
  // are ahead of the writes they record. Else, as in QEMU, an image tells that its bitmaps are not
  // to be relied on for as long as it is open for writing.
  bool keeps_bitmaps_ahead() const noexcept { return bitmaps_ahead_; }
  void keep_bitmaps_ahead() noexcept { bitmaps_ahead_ = true; }

  // Flushes and closes `node` and what only it holds, then lets go. Who must know whether all was
  // written flushes before; drivers tell what they could not save of an image.
  Task<void> release(MainLoop& loop, NodePtr node);

 private:
  friend class Node;
  void add_node(Node& node) { nodes_.push_back(&node); }
  void remove_node(Node& node) noexcept;
  Task<void> close_if_last(MainLoop& loop, Node& node, long references);

  MainLoop& loop_;
  std::span<const DriverDescriptor* const> drivers_;
  EventSink events_;
  Surroundings surroundings_;
  std::vector<Node*> nodes_;
  std::vector<NodePtr> monitor_nodes_;
  uint64_t next_node_number_ = 0;
  bool bitmaps_ahead_ = false;
};

// QEMU's rule for ids: a letter, then letters, digits, '-', '.', '_'.
bool is_wellformed_id(std::string_view id) noexcept;

}  // namespace strata
