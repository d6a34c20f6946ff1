// SPDX-License-Identifier: GPL-2.0-or-later
//
// Our qcow2 driver from a command line, for tests beside QEMU's tools.
//
//   harness OPTIONS-JSON COMMAND...
//
// OPTIONS-JSON are those of blockdev-add, or for the command create those of blockdev-create
// without "driver". Commands, in order, with numbers in bytes:
//
//   create                       makes the image
//   read OFFSET BYTES FILE       stores what is read
//   write OFFSET FILE            writes the file's bytes
//   pattern OFFSET BYTES VALUE   writes bytes of one value
//   compressed OFFSET FILE
//   zero OFFSET BYTES, unmap OFFSET BYTES, discard OFFSET BYTES
//   flush, resize BYTES, check, repair
//   snapshot NAME, apply NAME, delete NAME
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>
#include <iterator>

#include "block/base/error.h"
#include "block/drivers/builtin.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "block/qcow2/check.h"
#include "block/qcow2/create.h"
#include "block/qcow2/qcow2.h"
#include "qapi/runtime/visitor.h"
#include "qapi/visit_block_create.h"
#include "qapi/visit_blockdev.h"

using namespace strata;

namespace {

using Words = std::deque<std::string>;

std::string take(Words& words) {
  if (words.empty()) throw Error("an argument is missing");
  std::string word = std::move(words.front());
  words.pop_front();
  return word;
}
uint64_t take_number(Words& words) {
  return std::strtoull(take(words).c_str(), nullptr, 0);
}

std::vector<char> load_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void check(Status status, const char* what) {
  if (!status.ok()) throw Error::from_errno(status.error_number(), "{}", what);
}

Task<void> read_to_file(Backend& disk, Words& words) {
  uint64_t offset = take_number(words);
  std::vector<char> data(take_number(words));
  check(co_await disk.preadv(offset, IoVector::buffer(data.data(), data.size())), "read");
  std::ofstream(take(words), std::ios::binary)
      .write(data.data(), static_cast<std::streamsize>(data.size()));
}

Task<void> run_check(Backend& disk, bool repair) {
  qcow2::Image* image = qcow2::image_of(disk.node());
  if (image == nullptr) throw Error("not a qcow2 image");
  check(co_await image->settle(), "check");
  auto result = co_await qcow2::check_image(
      *image, {repair, repair},
      [](qcow2::CheckSays, const std::string& line) { std::puts(line.c_str()); });
  if (!result) throw Error::from_errno(result.error_number(), "check");
  std::printf("corruptions %lu leaks %lu errors %lu fixed %lu %lu\n", result->corruptions,
              result->leaks, result->check_errors, result->corruptions_fixed, result->leaks_fixed);
}

Task<void> run_one(Backend& disk, const std::string& command, Words& words) {
  if (command == "read") co_return co_await read_to_file(disk, words);
  if (command == "write" || command == "compressed") {
    uint64_t offset = take_number(words);
    std::vector<char> data = load_file(take(words));
    WriteFlags flags;
    if (command == "compressed") flags = WriteFlag::compressed;
    check(co_await disk.pwritev(offset, IoVector::buffer(data.data(), data.size()), flags),
          "write");
  } else if (command == "pattern") {
    uint64_t offset = take_number(words);
    uint64_t bytes = take_number(words);
    std::vector<char> data(bytes, static_cast<char>(take_number(words)));
    check(co_await disk.pwritev(offset, IoVector::buffer(data.data(), data.size())), "write");
  } else if (command == "zero" || command == "unmap") {
    uint64_t offset = take_number(words);
    WriteFlags flags;
    if (command == "unmap") flags = WriteFlag::may_unmap;
    check(co_await disk.pwrite_zeroes(offset, take_number(words), flags), "zero");
  } else if (command == "discard") {
    uint64_t offset = take_number(words);
    check(co_await disk.pdiscard(offset, take_number(words)), "discard");
  } else if (command == "flush") {
    check(co_await disk.flush(), "flush");
  } else if (command == "resize") {
    co_await disk.truncate(take_number(words));
  } else if (command == "check" || command == "repair") {
    co_await run_check(disk, command == "repair");
  } else if (command == "snapshot" || command == "apply" || command == "delete") {
    std::string name = take(words);
    qcow2::Image* image = qcow2::image_of(disk.node());
    if (command == "snapshot") co_await image->create_snapshot({.name = name});
    if (command == "apply") co_await image->apply_snapshot(image->find_snapshot(name).value());
    if (command == "delete") co_await image->delete_snapshot(image->find_snapshot(name).value());
  } else {
    throw Error("unknown command '{}'", command);
  }
}

Task<void> run(MainLoop& loop, BlockLayer& layer, Words& words) {
  boost::json::value json = boost::json::parse(take(words));
  if (!words.empty() && words.front() == "create") {
    words.pop_front();
    co_return co_await qcow2::create(loop, layer,
                                     qapi::from_json<qapi::BlockdevCreateOptionsQcow2>(json));
  }
  auto options = qapi::from_json<qapi::BlockdevOptions>(json);
  bool writable = !options.read_only.value_or(false);
  Backend disk(layer);
  Permissions permissions{Permission::consistent_read, kAllPermissions};
  if (writable) permissions.needed |= {Permission::write, Permission::resize};
  disk.attach(loop, co_await open_node(loop, layer, std::move(options)), permissions);
  std::exception_ptr failed;
  try {
    while (!words.empty()) {
      std::string command = take(words);
      co_await run_one(disk, command, words);
    }
  } catch (...) {
    failed = std::current_exception();
  }
  co_await disk.close(loop);
  if (failed) std::rethrow_exception(failed);
}

}  // namespace

int main(int argc, char** argv) {
  AioContext context("main");
  MainLoop loop(context);
  BlockLayer layer(loop, builtin_drivers(), [](std::string_view name, boost::json::object data) {
    std::cout << "event " << name << " " << boost::json::serialize(data) << "\n";
  });
  Words words(argv + 1, argv + argc);
  try {
    context.run_to_completion(run(loop, layer, words));
  } catch (const Error& error) {
    std::cerr << "harness: " << error.text() << '\n';
    return 1;
  }
  return 0;
}
