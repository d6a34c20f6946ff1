// SPDX-License-Identifier: GPL-2.0-or-later
//
// Prints what query-qmp-schema would answer if everything the schema defines were served.
#include <cstdio>

#include "qapi/interface.h"
#include "qapi/runtime/introspect.h"
#include "qapi/runtime/json_writer.h"

int main() {
  using namespace strata::qapi;
  const auto schema = introspect(all_commands(), all_events());
  std::puts(write_json(schema).c_str());
  return 0;
}
