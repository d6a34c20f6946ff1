// SPDX-License-Identifier: GPL-2.0-or-later
//
// LIST, INFO, GO and EXPORT_NAME: what there is, and choosing one.
#include "block/aio/stream.h"
#include "block/export/nbd/export.h"
#include "block/export/nbd/export_table.h"
#include "block/export/nbd/handshake.h"

namespace strata::nbd_export {

using nbd::Info;
using nbd::Option;
using nbd::OptionReply;

Task<std::shared_ptr<NbdExport>> Handshake::find_export(std::string name) {
  std::shared_ptr<NbdExport> found = exports_.find(name);
  if (found || exports_.complete().is_set()) co_return found;
  co_await exports_.complete().wait();
  co_return exports_.find(name);
}

Task<Handshake::Next> Handshake::list() {
  co_await exports_.complete().wait();
  nbd::Message reply;
  for (const auto& each : exports_.all()) {
    reply.put(nbd::build_server_entry({.name = each->name(), .description = each->description()})
                  .bytes());
  }
  reply.put(nbd::build_ack(Option::list).bytes());
  co_return co_await answer(std::move(reply));
}

Task<Handshake::Next> Handshake::info(Option option, Payload payload) {
  auto parsed = nbd::parse_info_option(option, payload);
  if (auto* fault = std::get_if<nbd::OptionFault>(&parsed))
    co_return co_await refuse(option, *fault);
  auto& wanted = std::get<nbd::InfoOption>(parsed);
  std::shared_ptr<NbdExport> target = co_await find_export(std::string(wanted.name));
  if (!target) co_return co_await refuse_unknown(option, wanted.name);

  nbd::Message reply;
  if (wanted.asks_for(Info::name)) {
    reply.put(nbd::build_info_text(option, Info::name, target->name()).bytes());
  }
  if (!target->description().empty()) {
    reply.put(nbd::build_info_text(option, Info::description, target->description()).bytes());
  }
  // Who does not ask for the sizes in GO has not promised to keep to them, and is told the truth
  // only as far as it may rely on it.
  bool keeps_to_sizes = wanted.asks_for(Info::block_size);
  nbd::BlockSizes sizes = target->block_sizes();
  uint32_t minimum = sizes.minimum;
  if (option == Option::go && !keeps_to_sizes) sizes.minimum = 1;
  reply.put(nbd::build_info_block_size(option, sizes).bytes());
  reply.put(nbd::build_info_export(
                option, {.size = target->size(), .transmission_flags = target->flags(mode_)})
                .bytes());
  if (option == Option::info && !keeps_to_sizes && minimum > 1) {
    reply.put(nbd::build_error(option, OptionReply::err_block_size_reqd,
                               "request NBD_INFO_BLOCK_SIZE to use this export")
                  .bytes());
    co_return co_await answer(std::move(reply));
  }
  reply.put(nbd::build_ack(option).bytes());
  if (option == Option::go) target_ = ExportUser(std::move(target));
  Next next = co_await answer(std::move(reply));
  co_return next == Next::option&& option == Option::go ? Next::transmission : next;
}

Task<Handshake::Next> Handshake::export_name(Payload payload) {
  std::shared_ptr<NbdExport> target = co_await find_export(std::string(nbd::as_text(payload)));
  if (!target) co_return give_up("export not found");
  nbd::Message reply = nbd::encode_export_name_reply(
      {.size = target->size(), .transmission_flags = target->flags(mode_)}, no_zeroes_);
  target_ = ExportUser(std::move(target));
  Next next = co_await answer(std::move(reply));
  co_return next == Next::option ? Next::transmission : next;
}

}  // namespace strata::nbd_export
