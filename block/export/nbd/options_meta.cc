// SPDX-License-Identifier: GPL-2.0-or-later
//
// LIST_META_CONTEXT and SET_META_CONTEXT.
#include <fmt/format.h>

#include "block/aio/stream.h"
#include "block/export/nbd/export.h"
#include "block/export/nbd/export_table.h"
#include "block/export/nbd/handshake.h"
#include "block/nbd/names.h"

namespace strata::nbd_export {
namespace {

using nbd::Option;

nbd::Message describe(Option option, const nbd::MetaSelection& selection,
                      const nbd::MetaOffer& offer) {
  nbd::Message reply;
  auto put = [&](uint32_t id, const std::string& name) {
    if (!selection.contains(id)) return;
    // Ids mean something only once they are set.
    uint32_t shown = option == Option::set_meta_context ? id : 0;
    reply.put(nbd::build_meta_context(option, {.id = shown, .name = name}).bytes());
  };
  put(nbd::kBaseAllocationId, std::string(nbd::kBaseAllocation));
  put(nbd::kAllocationDepthId, std::string(nbd::kAllocationDepth));
  for (uint32_t i = 0; i < offer.bitmaps.size(); ++i) {
    put(nbd::kFirstDirtyBitmapId + i,
        fmt::format("{}{}", nbd::kDirtyBitmapPrefix, offer.bitmaps[i]));
  }
  reply.put(nbd::build_ack(option).bytes());
  return reply;
}

}  // namespace

Task<Handshake::Next> Handshake::meta_context(Option option, Payload payload) {
  bool set = option == Option::set_meta_context;
  if (set) {
    contexts_.clear();
    contexts_of_.reset();
    if (mode_ == nbd::ReplyMode::simple) {
      co_return co_await refuse(
          option, nbd::OptionReply::err_invalid,
          fmt::format("request option '{}' when structured reply is not negotiated",
                      to_string(option)));
    }
  }
  auto parsed = nbd::parse_meta_option(option, payload);
  if (auto* fault = std::get_if<nbd::OptionFault>(&parsed))
    co_return co_await refuse(option, *fault);
  auto& wanted = std::get<nbd::MetaOption>(parsed);
  std::shared_ptr<NbdExport> target = co_await find_export(std::string(wanted.name));
  if (!target) co_return co_await refuse_unknown(option, wanted.name);

  nbd::MetaOffer offer = target->meta_offer();
  nbd::MetaSelection selection;
  if (!set && wanted.queries.left() == 0) selection.select_all(offer);
  while (wanted.queries.left() != 0) selection.apply(wanted.queries.next(), offer, !set);
  nbd::Message reply = describe(option, selection, offer);
  if (set) {
    contexts_ = std::move(selection);
    contexts_of_ = std::move(target);
  }
  co_return co_await answer(std::move(reply));
}

}  // namespace strata::nbd_export
