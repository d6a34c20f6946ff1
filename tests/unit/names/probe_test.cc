// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/names/probe.h"

#include <catch2/catch.hpp>
#include <string>

using namespace strata;

namespace {

std::string_view format_of(std::string_view header) {
  return probe_format({reinterpret_cast<const std::byte*>(header.data()), header.size()});
}

// With the zeroes that it has.
template <size_t kSize>
std::string_view bytes(const char (&text)[kSize]) {
  return {text, kSize - 1};
}

std::string at(size_t offset, std::string_view bytes) {
  return std::string(offset, '\0') + std::string(bytes);
}

}  // namespace

TEST_CASE("each format is known by its first bytes") {
  CHECK(format_of(bytes("QFI\xfb\0\0\0\2")) == "qcow2");
  CHECK(format_of(bytes("QFI\xfb\0\0\0\3")) == "qcow2");
  CHECK(format_of(bytes("QFI\xfb\xff\xff\xff\xff")) == "qcow2");
  CHECK(format_of(bytes("QFI\xfb\0\0\0\1")) == "qcow");
  CHECK(format_of(bytes("QED\0")) == "qed");
  CHECK(format_of(bytes("LUKS\xba\xbe\0\1")) == "luks");
  CHECK(format_of(bytes("vhdxfile")) == "vhdx");
  CHECK(format_of(bytes("conectix")) == "vpc");
  CHECK(format_of(at(0x40, bytes("\x7f\x10\xda\xbe"))) == "vdi");
  CHECK(format_of(bytes("WithoutFreeSpace\2\0\0\0")) == "parallels");
  CHECK(format_of(bytes("WithouFreSpacExt\2\0\0\0")) == "parallels");
  CHECK(format_of(bytes("KDMV")) == "vmdk");
  CHECK(format_of(bytes("COWD")) == "vmdk");
  CHECK(format_of(bytes("# Disk DescriptorFile\n\n  \nversion=1\n")) == "vmdk");
  CHECK(format_of(bytes("#\r\n\r\nversion=3")) == "vmdk");
  CHECK(format_of(bytes(
            "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 ")) == "cloop");
}

TEST_CASE("what is nearly a format is raw") {
  for (std::string_view header :
       {bytes(""), bytes("Q"), bytes("QFI"), bytes("QFI\xfb"), bytes("QFI\xfb\0\0\0\0"),
        bytes("QFI\xfb\0\0\0"), bytes("QED"), bytes("LUKS\xba\xbe\0\2"), bytes("LUKS\xba\xbe"),
        bytes("LUKS"), bytes("WithoutFreeSpace\1\0\0\0"), bytes("version=4"), bytes("x\nversion=1"),
        bytes("#!/bin/sh\necho"), bytes("\0\0\0\0")})
    CHECK(format_of(header) == "raw");
  CHECK(format_of(at(0x41, bytes("\x7f\x10\xda\xbe"))) == "raw");
}

TEST_CASE("every beginning of a header is looked at safely") {
  std::string header = "#" + std::string(2000, 'x') + "\nversion=1\n";
  for (size_t size = 0; size <= header.size(); ++size)
    CHECK((format_of({header.data(), size}) == "vmdk") == (size >= header.size() - 1));
  for (int byte = 0; byte < 256; ++byte) CHECK(format_of(std::string(2048, char(byte))) == "raw");
}
