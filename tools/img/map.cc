// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/compile.h>

#include <cstdio>
#include <map>

#include "qapi/types_block_info.h"
#include "tools/common/claims.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

bool goes_on(const qapi::MapEntry& entry, const qapi::MapEntry& next) {
  if (entry.data != next.data || entry.zero != next.zero || entry.depth != next.depth ||
      entry.present != next.present || entry.compressed != next.compressed ||
      entry.filename != next.filename || entry.offset.has_value() != next.offset.has_value())
    return false;
  return !entry.offset || *entry.offset + entry.length == *next.offset;
}

const char* word(bool value) {
  return value ? "true" : "false";
}

// As C's %#x has it: no prefix before 0.
std::string hexadecimal(int64_t value) {
  return value == 0 ? "0" : fmt::format("{:#x}", value);
}

class Printer {
 public:
  explicit Printer(OutputFormat output) : output_(output) {}

  void begin() const {
    if (output_ == OutputFormat::human)
      fmt::print("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File");
    else
      fmt::print("[");
  }

  void add(const qapi::MapEntry& entry, bool is_last) {
    if (output_ == OutputFormat::human)
      add_line(entry);
    else
      add_json(entry, is_last);
  }

  void end() const {
    if (output_ == OutputFormat::json) fmt::print("]\n");
  }

 private:
  static void add_line(const qapi::MapEntry& entry) {
    if (!entry.data || entry.zero) return;
    if (!entry.offset) throw Error("File contains external, encrypted or compressed clusters.");
    fmt::print("{:<16}{:<16}{:<16}{}\n", hexadecimal(entry.start), hexadecimal(entry.length),
               hexadecimal(*entry.offset), entry.filename.value_or(""));
  }

  static void add_json(const qapi::MapEntry& entry, bool is_last) {
    fmt::print(
        FMT_COMPILE(
            "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, "
            "\"data\": {}, \"compressed\": {}"),
        entry.start, entry.length, entry.depth, word(entry.present), word(entry.zero),
        word(entry.data), word(entry.compressed));
    if (entry.offset) fmt::print(FMT_COMPILE(", \"offset\": {}"), *entry.offset);
    std::fputs(is_last ? "}" : "},\n", stdout);
  }

  OutputFormat output_;
};

// Names are made once: an image may have a great many entries.
class NodeNames {
 public:
  const std::string& of(const Node& node) {
    auto [found, fresh] = names_.try_emplace(&node);
    if (fresh) found->second = node.display_name();
    return found->second;
  }

 private:
  std::map<const Node*, std::string> names_;
};

// The first node of the chain that has something to say, if only that there are zeroes since the
// nodes below it end here.
Task<qapi::MapEntry> entry_at(Node& top, NodeNames& names, Claims& claims, uint64_t offset,
                              uint64_t bytes) {
  qapi::MapEntry entry;
  BlockStatus status;
  for (Node* node = &top; node != nullptr; node = io::next_in_chain(*node), ++entry.depth) {
    auto answer = co_await io::block_status(*node, offset, bytes, StatusWant::mapping);
    if (!answer) throw Error::from_errno(answer.error_number(), "Could not read file metadata");
    status = *answer;
    bytes = status.bytes;
    if (status.flags.has_any({StatusFlag::data, StatusFlag::zero})) break;
    if (io::next_in_chain(*node) == nullptr) {
      status.flags = {};
      break;
    }
  }
  claims.add(status);
  entry.start = static_cast<int64_t>(offset);
  entry.length = static_cast<int64_t>(status.bytes);
  entry.data = status.flags.has(StatusFlag::data);
  entry.zero = status.flags.has(StatusFlag::zero);
  entry.compressed = status.flags.has(StatusFlag::compressed);
  entry.present = status.flags.has(StatusFlag::allocated);
  if (status.flags.has(StatusFlag::offset_valid)) {
    entry.offset = static_cast<int64_t>(status.map_offset);
    if (status.file != nullptr) entry.filename = names.of(*status.file);
  }
  co_return entry;
}

}  // namespace

Task<int> run_map(Images& images, Words& words) {
  ImageChoice how;
  OutputFormat output = OutputFormat::human;
  int64_t start = 0;
  int64_t longest = INT64_MAX;
  std::string name = words.parse_for_image({
      {"-s, --start-offset BYTES", "where to begin", size_into(start, "start offset")},
      {"-l, --max-length BYTES", "how far to go", size_into(longest, "max length")},
      output_option(output),
      format_option(how),
      image_options_option(how),
      force_share_option(how.flags),
  });
  Backend* image = co_await images.open(name, std::move(how));

  Claims claims(image->node());
  NodeNames names;
  Printer printer(output);
  printer.begin();
  auto length = static_cast<int64_t>(image->length());
  int64_t end = start < length && longest < length - start ? start + longest : length;
  qapi::MapEntry current;  // the last one is printed even if it is empty
  current.start = start;
  for (int64_t offset = start; offset < end;) {
    qapi::MapEntry next =
        co_await entry_at(image->node(), names, claims, static_cast<uint64_t>(offset),
                          static_cast<uint64_t>(end - offset));
    offset += next.length;
    if (current.length != 0 && goes_on(current, next)) {
      current.length += next.length;
      continue;
    }
    if (current.length != 0) printer.add(current, false);
    current = std::move(next);
  }
  printer.add(current, true);
  printer.end();
  co_return 0;
}

}  // namespace strata::tools
