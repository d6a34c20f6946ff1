// SPDX-License-Identifier: GPL-2.0-or-later
//
// A QMP client's bytes: through the parser in chunks and at once, which must agree; what was a
// value must survive being written and read; and it is tried as the options of a block node.
#include <boost/json/value.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "block/base/error.h"
#include "qapi/runtime/json_parser.h"
#include "qapi/runtime/json_writer.h"
#include "qapi/visit_blockdev.h"

using namespace strata;
using namespace strata::qapi;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

std::string again(const std::string& text) {
  return write_json(parse_json(text));
}

void check_value(const boost::json::value& value, const std::string& text) {
  // Keys of one bucket change places each time, and -0.0 comes back as the integer 0, but after
  // that nothing changes. JSON has no infinity; QEMU writes it all the same.
  if (text.find("inf") == std::string::npos) {
    const std::string settled = again(again(text));
    require(again(again(settled)) == settled);
  }
  try {
    const auto options = from_json<BlockdevOptions>(value);
    require(from_json<BlockdevOptions>(to_json(options)) == options);
  } catch (const Error&) {
  }
}

std::vector<std::string> parse(std::string_view input, std::size_t chunk) {
  JsonParser parser({.nesting = 64, .bytes = 4096, .tokens = 512});
  std::vector<std::string> items;
  const auto add = [&items](const JsonParser::Item& item) {
    if (const auto* error = std::get_if<Error>(&item)) {
      items.push_back("error: " + error->text());
      return;
    }
    const auto& value = std::get<boost::json::value>(item);
    items.push_back(write_json(value));
    check_value(value, items.back());
  };
  while (!input.empty()) {
    std::string_view part = input.substr(0, chunk);
    input.remove_prefix(part.size());
    while (auto item = parser.next(part)) add(*item);
    require(part.empty());
  }
  if (auto item = parser.finish()) add(*item);
  require(!parser.finish());
  return items;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto whole = parse(input, input.size() + 1);
  require(parse(input, 1u + data[0] % 16) == whole);
  return 0;
}
