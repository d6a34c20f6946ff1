// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/blkdebug/blkdebug.h"

#include <catch2/catch.hpp>

#include "block/coro/scope.h"
#include "block/drivers/blkdebug/config_file.h"
#include "tests/unit/support/memory_driver.h"

using namespace strata;
using namespace strata::test;
using qapi::BlkdebugEvent;
using qapi::BlkdebugIOType;

namespace {

std::string refusal(std::string_view config) {
  try {
    (void)blkdebug::parse_config(config);
  } catch (const Error& error) {
    return error.text();
  }
  return "";
}

blkdebug::Rule error_at(BlkdebugEvent event, int error, bool once = false) {
  qapi::BlkdebugInjectErrorOptions options;
  options.event = event;
  options.errno_ = error;
  options.once = once;
  return blkdebug::make_rule(options);
}

// A blkdebug node over the memory driver, with a user on top.
struct Debugged {
  explicit Debugged(qapi::BlockdevOptionsBlkdebug with = {}) {
    current_behaviour() = &behaviour;
    qapi::BlockdevOptions below;
    below.select(qapi::BlockdevDriver::null_co);
    below.get_if<qapi::BlockdevOptionsNull>()->size = 1 << 20;
    with.image = qapi::Box<qapi::BlockdevOptions>(below);
    qapi::BlockdevOptions options;
    options.select(qapi::BlockdevDriver::blkdebug);
    *options.get_if<qapi::BlockdevOptionsBlkdebug>() = with;
    options.discard = qapi::BlockdevDiscardOptions::unmap;
    user.attach(loop, run(open_node(loop, layer, std::move(options))), kReadWrite);
  }
  ~Debugged() { run(user.close(loop)); }

  template <class T>
  T run(Task<T> task) {
    return context.run_to_completion(std::move(task));
  }
  blkdebug::RuleBook& rules() { return *debug_rules_of(user.node()); }
  int read(uint64_t offset = 0) {
    char data[512];
    return run(user.preadv(offset, IoVector::buffer(data, sizeof data))).error_number();
  }
  int write(uint64_t offset = 0) {
    char data[512]{};
    return run(user.pwritev(offset, IoVector::buffer(data, sizeof data))).error_number();
  }

  MemoryBehaviour behaviour;
  AioContext context{"test"};
  MainLoop loop{context};
  std::array<const DriverDescriptor*, 3> drivers{&kMemoryDriver, &kRawDriver, &kBlkdebugDriver};
  BlockLayer layer{loop, drivers, [](std::string_view, boost::json::object) {}};
  Backend user{layer};
};

Task<void> wait_and_resume(Debugged& disk, std::vector<std::string>& log) {
  co_await disk.rules().wait_until_suspended("A");
  log.emplace_back("stopped");
  (void)disk.rules().resume("A");
}

Task<void> write_and_note(Debugged& disk, std::vector<std::string>& log) {
  char data[512]{};
  Status status = co_await disk.user.pwritev(0, IoVector::buffer(data, sizeof data));
  log.emplace_back(status.ok() ? "written" : "failed");
}

Task<void> stop_a_write(Debugged& disk, std::vector<std::string>& log) {
  TaskScope scope;
  scope.spawn(wait_and_resume(disk, log));
  scope.spawn(write_and_note(disk, log));
  co_await scope.join();
}

}  // namespace

TEST_CASE("a config file holds rules in sections") {
  auto rules = blkdebug::parse_config(
      "# comment\n"
      "[inject-error]\n"
      "  event = \"l2_load\"\n"
      "errno = \"28\"\n"
      "once = \"on\"\n"
      "\n"
      "[set-state \"name\"]\n"
      "event = \"none\"\n"
      "new_state = \"2\"");
  REQUIRE(rules.size() == 2);
  CHECK(rules[0].event == BlkdebugEvent::l2_load);
  CHECK(rules[0].inject->error == 28);
  CHECK(rules[0].inject->once);
  CHECK(rules[1].new_state == 2);
}

TEST_CASE("a config file that makes no sense is refused with a reason") {
  CHECK(refusal("event = \"none\"\n") == "no group defined");
  CHECK(refusal("[foo]\n") == "There is no option group 'foo'");
  CHECK(refusal("[inject-error\n") == "parse error");
  CHECK(refusal("[inject-error]\n") == "Missing event name for rule");
  CHECK(refusal("[inject-error]\nevent = none\n") == "invalid parameter value: ");
  CHECK(refusal("[inject-error]\nevent = \"bla\"\n") == "invalid parameter value: bla");
  CHECK(refusal("[inject-error]\nevent=\"none\"\n") == "Invalid parameter 'event=\"none\"'");
  CHECK(refusal("[set-state]\nevent = \"none\"\nnew_state = \"x\"\n") ==
        "Parameter 'new_state' expects a number");
  CHECK(refusal("[inject-error]\nevent = \"none\"\nonce = \"x\"\n") ==
        "Parameter 'once' expects 'on' or 'off'");
}

TEST_CASE("an error at an event comes once the event has") {
  Debugged disk;
  disk.rules().add(error_at(BlkdebugEvent::l2_load, ENOSPC));
  CHECK(disk.read() == 0);
  disk.run(disk.rules().reach(BlkdebugEvent::l2_load));
  CHECK(disk.read() == ENOSPC);
  CHECK(disk.read() == ENOSPC);
}

TEST_CASE("an error that is to come once does not come again") {
  Debugged disk;
  disk.rules().add(error_at(BlkdebugEvent::l2_load, EIO, true));
  disk.run(disk.rules().reach(BlkdebugEvent::l2_load));
  CHECK(disk.write() == EIO);
  CHECK(disk.write() == 0);
  disk.run(disk.rules().reach(BlkdebugEvent::l2_load));
  CHECK(disk.write() == 0);
}

TEST_CASE("an error for a kind of request or a sector spares the others") {
  qapi::BlkdebugInjectErrorOptions rule;
  rule.event = BlkdebugEvent::none;
  rule.iotype = BlkdebugIOType::read;
  rule.sector = 2;
  qapi::BlockdevOptionsBlkdebug options;
  options.inject_error = {rule};
  Debugged disk(options);
  CHECK(disk.read(0) == 0);
  CHECK(disk.read(1024) == EIO);
  CHECK(disk.write(1024) == 0);
}

TEST_CASE("a rule of a state waits for it") {
  Debugged disk;
  blkdebug::Rule error = error_at(BlkdebugEvent::l2_load, EIO);
  error.state = 2;
  disk.rules().add(error);
  qapi::BlkdebugSetStateOptions change;
  change.event = BlkdebugEvent::l1_update;
  change.new_state = 2;
  disk.rules().add(blkdebug::make_rule(change));
  disk.run(disk.rules().reach(BlkdebugEvent::l2_load));
  CHECK(disk.read() == 0);
  disk.run(disk.rules().reach(BlkdebugEvent::l1_update));
  disk.run(disk.rules().reach(BlkdebugEvent::l2_load));
  CHECK(disk.read() == EIO);
}

TEST_CASE("a write stops at a breakpoint until it is resumed") {
  Debugged disk;
  std::vector<std::string> log;
  disk.rules().set_breakpoint(BlkdebugEvent::pwritev, "A");
  disk.run(stop_a_write(disk, log));
  CHECK(log == std::vector<std::string>{"stopped", "written"});
  CHECK(disk.rules().resume("A").error_number() == ENOENT);
  CHECK(disk.rules().remove_breakpoint("A").error_number() == ENOENT);
}

TEST_CASE("the limits of the options shape what reaches the image") {
  qapi::BlockdevOptionsBlkdebug options;
  options.align = 4096;
  options.max_transfer = 8192;
  options.max_discard = 65536;
  options.opt_discard = 65536;
  Debugged disk(options);
  std::string data(3 * 8192, 'x');
  REQUIRE(disk.run(disk.user.pwritev(4096, IoVector::buffer(data.data(), data.size()))).ok());
  CHECK(disk.behaviour.calls ==
        std::vector<std::string>{"write 4096+8192", "write 12288+8192", "write 20480+8192"});
  disk.behaviour.calls.clear();
  REQUIRE(disk.run(disk.user.pdiscard(4096, 131072)).ok());
  CHECK(disk.behaviour.calls == std::vector<std::string>{"discard 4096+61440",
                                                         "discard 65536+65536",
                                                         "discard 131072+4096"});
}

TEST_CASE("limits that contradict each other are refused") {
  qapi::BlockdevOptionsBlkdebug options;
  auto refused = [&] {
    try {
      Debugged disk(options);
    } catch (const Error& error) {
      return error.text();
    }
    return std::string();
  };
  options.align = 3;
  CHECK(refused() == "Cannot meet constraints with align 3");
  options.align = 4096;
  options.max_transfer = 1024;
  CHECK(refused() == "Cannot meet constraints with max-transfer 1024");
  options.max_transfer = std::nullopt;
  options.opt_write_zero = 8192;
  options.max_write_zero = 4096;
  CHECK(refused() == "Cannot meet constraints with max-write-zero 4096");
}

TEST_CASE("permissions can be taken and kept from others") {
  qapi::BlockdevOptionsBlkdebug options;
  options.take_child_perms = std::vector{qapi::BlockPermission::write_unchanged};
  options.unshare_child_perms = std::vector{qapi::BlockPermission::resize};
  Debugged disk(options);
  const Edge& image = *disk.user.node().child("image");
  CHECK(image.permissions().needed.has(Permission::write_unchanged));
  CHECK_FALSE(image.permissions().shared.has(Permission::resize));
}
