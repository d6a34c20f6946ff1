// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/probe.h"

#include <cstdint>
#include <cstring>

namespace strata {
namespace {

using Header = std::span<const std::byte>;

bool has(Header header, size_t offset, std::string_view magic) noexcept {
  return header.size() >= offset + magic.size() &&
         std::memcmp(header.data() + offset, magic.data(), magic.size()) == 0;
}

uint64_t big_endian(Header header, size_t offset, size_t size) noexcept {
  uint64_t value = 0;
  if (header.size() < offset + size) return 0;
  for (size_t i = 0; i < size; ++i)
    value = value << 8 | std::to_integer<uint64_t>(header[offset + i]);
  return value;
}

uint64_t little_endian(Header header, size_t offset, size_t size) noexcept {
  uint64_t value = 0;
  if (header.size() < offset + size) return 0;
  for (size_t i = size; i-- > 0;)
    value = value << 8 | std::to_integer<uint64_t>(header[offset + i]);
  return value;
}

// A line of a VMDK descriptor file, without its end; takes it off `text`.
std::string_view next_line(std::string_view& text) noexcept {
  size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// A descriptor alone: comments and blank lines, then "version=".
bool is_vmdk_descriptor(Header header) noexcept {
  std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  while (!text.empty()) {
    std::string_view line = next_line(text);
    if (line.starts_with("version=1") || line.starts_with("version=2") ||
        line.starts_with("version=3"))
      return true;
    if (line.empty() || line[0] == '#' || line.find_first_not_of(' ') == line.npos) continue;
    return false;
  }
  return false;
}

bool is_vmdk(Header header) noexcept {
  return has(header, 0, "KDMV") || has(header, 0, "COWD") || is_vmdk_descriptor(header);
}

bool is_parallels(Header header) noexcept {
  return (has(header, 0, "WithoutFreeSpace") || has(header, 0, "WithouFreSpacExt")) &&
         little_endian(header, 16, 4) == 2;
}

bool is_bochs(Header header) noexcept {
  uint64_t version = little_endian(header, 68, 4);
  return has(header, 0, "Bochs Virtual HD Image") && has(header, 32, "Redolog") &&
         has(header, 48, "Growing") && (version == 0x10000 || version == 0x20000);
}

}  // namespace

std::string_view probe_format(std::span<const std::byte> header) noexcept {
  if (has(header, 0, "QFI\xfb")) {
    uint64_t version = big_endian(header, 4, 4);
    if (version >= 2) return "qcow2";
    if (version == 1) return "qcow";
  }
  if (has(header, 0, {"QED\0", 4})) return "qed";
  if (has(header, 0, "LUKS\xba\xbe") && big_endian(header, 6, 2) == 1) return "luks";
  if (has(header, 0, "vhdxfile")) return "vhdx";
  if (has(header, 0, "conectix")) return "vpc";
  if (little_endian(header, 0x40, 4) == 0xbeda107f) return "vdi";
  if (is_parallels(header)) return "parallels";
  if (is_bochs(header)) return "bochs";
  if (has(header, 0, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 "))
    return "cloop";
  if (is_vmdk(header)) return "vmdk";
  return "raw";
}

}  // namespace strata
