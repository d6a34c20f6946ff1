// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/runtime/command.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <catch2/catch.hpp>
#include <coroutine>
#include <string>

#include "block/base/error.h"
#include "block/coro/task.h"
#include "qapi/commands_block_core.h"
#include "qapi/commands_block_info.h"
#include "qapi/commands_control.h"
#include "qapi/events_block_job.h"
#include "qapi/interface.h"
#include "qapi/runtime/command_table.h"
#include "qapi/runtime/introspect.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/runtime/json_writer.h"

using namespace strata;
using namespace strata::qapi;
namespace json = boost::json;

namespace {

struct Monitor {
  std::string seen;
};

Task<void> block_resize(Monitor& monitor, cmd::BlockResize::Arguments arguments) {
  monitor.seen = arguments.node_name.value_or("?") + " " + std::to_string(arguments.size);
  if (arguments.size < 0) throw Error("Parameter 'size' expects a >0 size");
  co_return;
}

VersionInfo query_version(Monitor&, NoArguments) {
  return {.qemu = {.major = 10, .minor = 2, .micro = 0}, .package = "test"};
}

// Starts a coroutine and runs it to its end; nothing in these tests suspends.
struct Fire {
  struct promise_type {
    Fire get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

Fire run(Task<json::value> task, std::string& out) {
  try {
    out = write_json(co_await std::move(task));
  } catch (const Error& error) {
    out = error.text();
  }
}

std::string call(const CommandTable<Monitor>& table, Monitor& monitor, std::string_view name,
                 std::string_view arguments) {
  std::string out = "not finished";
  run(table.call(table.get(name), monitor, parse_json(arguments)), out);
  return out;
}

const json::object& entry(const json::array& schema, std::string_view name) {
  for (const auto& value : schema) {
    if (value.at("name").as_string() == name) return value.get_object();
  }
  FAIL("no entry " << name);
  throw std::logic_error("unreachable");
}

}  // namespace

TEST_CASE("a served command is called with typed arguments") {
  CommandTable<Monitor> table;
  table.serve<cmd::BlockResize>(&block_resize);
  table.serve<cmd::QueryVersion>(&query_version);
  Monitor monitor;
  CHECK(call(table, monitor, "block_resize", R"({"node-name": "n", "size": 512})") == "{}");
  CHECK(monitor.seen == "n 512");
  CHECK(call(table, monitor, "query-version", "{}") ==
        R"({"qemu": {"micro": 0, "minor": 2, "major": 10}, "package": "test"})");
}

TEST_CASE("errors of arguments and of handlers reach the caller") {
  CommandTable<Monitor> table;
  table.serve<cmd::BlockResize>(&block_resize);
  Monitor monitor;
  CHECK(call(table, monitor, "block_resize", "{}") == "Parameter 'size' is missing");
  CHECK(call(table, monitor, "block_resize", R"({"size": 1, "x": 2})") ==
        "Parameter 'x' is unexpected");
  CHECK(call(table, monitor, "block_resize", R"({"size": -1})") ==
        "Parameter 'size' expects a >0 size");
}

TEST_CASE("a command that is not served does not exist") {
  CommandTable<Monitor> table;
  table.serve<cmd::BlockResize>(&block_resize);
  CHECK(table.find("query-version") == nullptr);
  try {
    table.get("query-version");
    FAIL("found");
  } catch (const Error& error) {
    CHECK(error.error_class() == ErrorClass::CommandNotFound);
    CHECK(error.text() == "The command query-version has not been found");
  }
}

TEST_CASE("an event carries its name and data") {
  const Event pending = make_event(event::BlockJobPending{.type = JobType::backup, .id = "job0"});
  CHECK(pending.name() == "BLOCK_JOB_PENDING");
  REQUIRE(pending.data.has_value());
  CHECK(write_json(*pending.data) == R"({"type": "backup", "id": "job0"})");
}

TEST_CASE("introspection shows what is served and what that reaches") {
  CommandTable<Monitor> table;
  table.serve<cmd::QueryVersion>(&query_version);
  const auto schema = introspect(table.infos(), {});
  REQUIRE(schema.size() == 6);  // the command, no arguments, two structs, str and int
  const auto& command = entry(schema, "query-version");
  CHECK(command.at("meta-type").as_string() == "command");
  const auto& returns = entry(schema, command.at("ret-type").as_string());
  CHECK(returns.at("members").as_array().size() == 2);
  CHECK(entry(schema, command.at("arg-type").as_string()).at("members").as_array().empty());
}

TEST_CASE("introspection leaves out enum values that are not built, and their cases") {
  const auto keep = [](std::string_view name, std::string_view value) {
    return name != "BlockdevDriver" || value == "raw" || value == "file";
  };
  const auto schema = introspect(all_commands(), {}, keep);
  const auto& add = entry(schema, "blockdev-add");
  const auto& options = entry(schema, add.at("arg-type").as_string());
  REQUIRE(options.at("variants").as_array().size() == 2);
  CHECK(options.at("variants").at(0).at("case").as_string() == "file");
  for (const auto& member : options.at("members").as_array()) {
    if (member.at("name").as_string() != "driver") continue;
    const auto& drivers = entry(schema, member.at("type").as_string());
    CHECK(write_json(drivers.at("values")) == R"(["file", "raw"])");
    CHECK(drivers.at("members").as_array().size() == 2);
  }
}

TEST_CASE("everything the schema defines can be introspected") {
  const auto schema = introspect(all_commands(), all_events());
  CHECK(all_commands().size() == 83);
  CHECK(all_events().size() == 13);
  CHECK(entry(schema, "x-debug-query-block-graph").at("features").as_array().size() == 1);
}
