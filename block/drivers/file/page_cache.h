// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <optional>

namespace strata {

// Throws Error if some of the file is still in the page cache. Looks at every page: for tests of
// migration only.
void check_page_cache_dropped(int fd);

// The size of the extents in which XFS allocates a file's space, in bytes; none where the file
// system has no such thing or nobody set it.
std::optional<uint64_t> extent_size_hint(int fd) noexcept;
// Advice: no harm if it is not taken.
void set_extent_size_hint(int fd, uint32_t bytes) noexcept;

}  // namespace strata
