// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd/request.h"

namespace strata::nbd {

std::optional<StatusPayload> parse_status_payload(ConstBytes payload) noexcept {
  Reader reader(payload);
  std::uint64_t effect_length = reader.take<std::uint64_t>();
  if (reader.overrun() || reader.left().size() % sizeof(std::uint32_t) != 0) return std::nullopt;
  return StatusPayload{.effect_length = effect_length, .ids = reader.left()};
}

}  // namespace strata::nbd
