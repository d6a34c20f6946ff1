// SPDX-License-Identifier: GPL-2.0-or-later
//
// --list: what another server exports.
#include <cstdio>

#include "block/aio/socket_connect.h"
#include "block/drivers/nbd/handshake.h"
#include "tools/common/access_objects.h"
#include "tools/nbd/serve.h"

namespace strata::tools {
namespace {

using nbd_client::ExportInfo;

struct FlagName {
  uint16_t flag;
  const char* name;
};
constexpr FlagName kFlagNames[]{
    {nbd::kReadOnly, "readonly"},
    {nbd::kSendFlush, "flush"},
    {nbd::kSendFua, "fua"},
    {nbd::kRotational, "rotational"},
    {nbd::kSendTrim, "trim"},
    {nbd::kSendWriteZeroes, "zeroes"},
    {nbd::kSendDf, "df"},
    {nbd::kCanMultiConn, "multi"},
    {nbd::kSendResize, "resize"},
    {nbd::kSendCache, "cache"},
    {nbd::kSendFastZero, "fast-zero"},
    {nbd::kBlockStatusPayload, "block-status-payload"},
};

void print_export(const ExportInfo& info) {
  fmt::print(" export: '{}'\n", info.name);
  if (!info.description.empty()) fmt::print("  description: {}\n", info.description);
  if ((info.flags & nbd::kHasFlags) == 0) return;
  fmt::print("  size:  {}\n  flags: 0x{:x} (", info.size, info.flags);
  for (const FlagName& each : kFlagNames)
    if ((info.flags & each.flag) != 0) fmt::print(" {}", each.name);
  fmt::print(" )\n");
  if (info.sizes) {
    fmt::print("  min block: {}\n", info.sizes->minimum);
    fmt::print("  opt block: {}\n", info.sizes->preferred);
    fmt::print("  max block: {}\n", info.sizes->maximum);
  }
  fmt::print("  transaction size: {}\n",
             info.mode == nbd::ReplyMode::extended ? "64-bit" : "32-bit");
  if (!info.contexts.empty()) {
    fmt::print("  available meta contexts: {}\n", info.contexts.size());
    for (const std::string& name : info.contexts) fmt::print("   {}\n", name);
  }
}

std::string host_of(const NbdCommandLine& line) {
  if (line.tls_hostname) return *line.tls_hostname;
  return line.socket ? "" : line.bind.value_or("0.0.0.0");
}

}  // namespace

Task<int> list_exports(Tool& tool, const NbdCommandLine& line) {
  nbd_client::HandshakeOptions options;
  if (line.tls_creds) {
    try {
      options.tls = find_defined_credentials(*line.tls_creds);
      if (options.tls->endpoint() != TlsEndpoint::client)
        throw Error("Expected TLS credentials for a client endpoint");
    } catch (Error& error) {
      throw std::move(error).prepend("Failed to get TLS creds: ");
    }
    options.tls_hostname = host_of(line);
  }
  UniqueFd fd = co_await connect_to(tool.context(), nbd_address(line), tool.passed_fds());
  nbd_client::Channel channel(tool.context(), std::move(fd));
  nbd_client::Handshake handshake(channel, std::move(options));
  std::vector<ExportInfo> exports = co_await handshake.list();
  co_await channel.close();
  fmt::print("exports available: {}\n", exports.size());
  for (const ExportInfo& each : exports) print_export(each);
  co_return 0;
}

}  // namespace strata::tools
