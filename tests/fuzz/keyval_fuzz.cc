// SPDX-License-Identifier: GPL-2.0-or-later
//
// The argument of a command line option: as keyval or JSON, and on as the options of a block node
// or an object.
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "block/base/error.h"
#include "qapi/runtime/json_writer.h"
#include "qapi/runtime/keyval.h"
#include "qapi/visit_blockdev.h"
#include "qapi/visit_qom.h"

using namespace strata;
using namespace strata::qapi;

namespace {

template <class T>
void read(const OptionValue& option) {
  try {
    const T value = option.is_json ? from_json<T>(option.value) : from_keyval<T>(option.value);
    if (!(from_json<T>(to_json(value)) == value)) std::abort();
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try {
    const OptionValue option = parse_option(input, "driver");
    if (!option.is_json) (void)write_json(option.value);
    read<BlockdevOptions>(option);
    read<ObjectOptions>(option);
  } catch (const Error&) {
  }
  return 0;
}
