// SPDX-License-Identifier: GPL-2.0-or-later
//
// The LUKS header: nothing reads past its input, what is accepted is bounded and can be written
// again, and every accepted header either means a cipher that can be made or is refused by name.
#include "block/base/error.h"
#include "block/crypto/luks_key.h"
#include "tests/fuzz/fuzz.h"

using namespace strata;
using namespace strata::crypto;
using fuzz::require;

namespace {

// A password on a slot, for as long as a fuzzer has.
void try_password(const LuksHeader& header, const LuksParameters& parameters) {
  std::vector<std::byte> material(header.material_bytes());
  std::vector<std::byte> key(header.key_bytes);
  CpuBudget budget{std::chrono::microseconds(100)};
  try {
    (void)try_slot(header, parameters, header.slots[0], material, key, key, budget);
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  auto choice = input.take<uint8_t>();
  bool detached = (choice & 1) != 0;
  auto header = parse_luks_header(input.rest(), detached);
  if (!header) return 0;
  require(header->key_bytes <= kMaxLuksKey);
  auto again = parse_luks_header(encode_luks_header(*header), detached);
  require(again.ok() && *again == *header);
  auto parameters = luks_parameters(*header);
  if (!parameters) return 0;
  require(parameters->cipher.key_bytes() == header->key_bytes);
  if ((choice & 2) != 0) try_password(*header, *parameters);
  return 0;
}
