// SPDX-License-Identifier: GPL-2.0-or-later
//
// Which commands are served, and by whom.
//
//   CommandTable<Monitor> table;
//   table.serve<cmd::BlockdevAdd>(&blockdev_add);   // Task<void> blockdev_add(Monitor&,
//   BlockdevOptions) json::value reply = co_await table.call(monitor, "blockdev-add", arguments);
//
// A handler is a coroutine, or a plain function where nothing can wait. It takes the arguments by
// value and returns what the schema says, void for nothing. A command without a handler does not
// exist for clients.
#pragma once

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "block/base/error.h"
#include "qapi/runtime/command.h"
#include "qapi/runtime/visitor.h"

namespace strata {

// From block/coro/task.h, which whoever instantiates a table has included; this room need not know
// more of it than that it can be awaited.
// Include first: "block/coro/task.h"
template <class T>
class Task;

}  // namespace strata

namespace strata::qapi {

template <class Context>
class CommandTable {
  template <class C>
  using Coroutine = Task<typename C::Return> (*)(Context&, typename C::Arguments);
  template <class C>
  using Function = typename C::Return (*)(Context&, typename C::Arguments);
  using AnyFunction = void (*)();

 public:
  struct Entry {
    const CommandDescription* info;
    AnyFunction handler;
    Task<boost::json::value> (*run)(AnyFunction, Context&, boost::json::value);
  };

  // A command is served once.
  template <class C>
  void serve(Coroutine<C> handler) {
    add({&C::info(), reinterpret_cast<AnyFunction>(handler), run_coroutine<C>});
  }
  template <class C>
  void serve(Function<C> handler) {
    add({&C::info(), reinterpret_cast<AnyFunction>(handler), run_function<C>});
  }

  // Null when nobody serves `name`.
  const Entry* find(std::string_view name) const noexcept {
    const auto entry =
        std::find_if(entries_.begin(), entries_.end(),
                     [name](const Entry& candidate) { return candidate.info->name == name; });
    return entry == entries_.end() ? nullptr : &*entry;
  }

  // As find(), for clients: throws CommandNotFound.
  const Entry& get(std::string_view name) const {
    if (const Entry* entry = find(name)) return *entry;
    throw Error(ErrorClass::CommandNotFound, "The command {} has not been found", name);
  }

  // Runs a command. `arguments` is the object a client sent, empty if it sent none; `context` must
  // live until the task ends. Throws what the handler throws, and Error for ill-formed arguments.
  static Task<boost::json::value> call(const Entry& entry, Context& context,
                                       boost::json::value arguments) {
    return entry.run(entry.handler, context, std::move(arguments));
  }

  // In the schema's order.
  const std::vector<Entry>& entries() const noexcept { return entries_; }
  std::vector<const CommandDescription*> infos() const {
    std::vector<const CommandDescription*> result;
    for (const Entry& entry : entries_) result.push_back(entry.info);
    return result;
  }

 private:
  void add(Entry entry) {
    const auto place = std::lower_bound(
        entries_.begin(), entries_.end(), entry,
        [](const Entry& a, const Entry& b) { return a.info->index < b.info->index; });
    entries_.insert(place, entry);
  }

  template <class C>
  static Task<boost::json::value> run_coroutine(AnyFunction handler, Context& context,
                                                boost::json::value arguments) {
    const auto function = reinterpret_cast<Coroutine<C>>(handler);
    auto values = from_json<typename C::Arguments>(arguments);
    if constexpr (std::is_void_v<typename C::Return>) {
      co_await function(context, std::move(values));
      co_return boost::json::object();
    } else {
      co_return to_json(co_await function(context, std::move(values)));
    }
  }

  template <class C>
  static Task<boost::json::value> run_function(AnyFunction handler, Context& context,
                                               boost::json::value arguments) {
    const auto function = reinterpret_cast<Function<C>>(handler);
    auto values = from_json<typename C::Arguments>(arguments);
    if constexpr (std::is_void_v<typename C::Return>) {
      function(context, std::move(values));
      co_return boost::json::object();
    } else {
      co_return to_json(function(context, std::move(values)));
    }
  }

  std::vector<Entry> entries_;
};

}  // namespace strata::qapi
