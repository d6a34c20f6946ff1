// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/qcow2/mapping.h"

#include <algorithm>

namespace strata::qcow2 {
namespace {

// Whether the host cluster that the entry names can be one of this guest cluster's.
bool is_placed(const MappingRules& rules, const L2Entry& entry, GuestOffset offset) noexcept {
  const Geometry& geometry = rules.geometry;
  HostOffset cluster = entry.offset();
  if (!geometry.is_cluster_aligned(cluster.value)) return false;
  return !rules.data_file || cluster.value == geometry.offset_of(geometry.cluster_of(offset)).value;
}

Mapping map_one(const MappingRules& rules, const L2Entry& entry, GuestOffset offset) noexcept {
  const Geometry& geometry = rules.geometry;
  Invalid invalid{entry.raw};
  auto placed = [&] { return is_placed(rules, entry, offset); };
  auto host = [&] { return entry.offset() + geometry.in_cluster(offset); };
  switch (entry.subcluster(geometry.subcluster_of(offset), geometry, rules.data_file)) {
    case SubclusterKind::unallocated:
      return Unallocated{};
    case SubclusterKind::unallocated_allocated:
      if (!placed()) return invalid;
      return Unallocated{host()};
    case SubclusterKind::zero_plain:
      if (rules.version < 3) return invalid;
      return Zero{};
    case SubclusterKind::zero_allocated:
      if (rules.version < 3 || !placed()) return invalid;
      return Zero{host()};
    case SubclusterKind::normal:
      if (!placed()) return invalid;
      return Data{host(), entry.copied() || rules.data_file};
    case SubclusterKind::compressed:
      if (rules.data_file) return invalid;
      return Compressed{entry.extent(geometry)};
    case SubclusterKind::invalid:
      break;
  }
  return invalid;
}

// Whether `next`, `bytes` further on, goes on where `first` began.
bool continues(const Mapping& first, const Mapping& next, uint64_t bytes) noexcept {
  if (first.index() != next.index()) return false;
  if (const auto* data = std::get_if<Data>(&first)) {
    const Data& more = std::get<Data>(next);
    return more.host == data->host + bytes && more.in_place == data->in_place;
  }
  auto goes_on = [bytes](HostOffset host, HostOffset more) {
    return host.value == 0 ? more.value == 0 : more == host + bytes;
  };
  if (const auto* zero = std::get_if<Zero>(&first))
    return goes_on(zero->host, std::get<Zero>(next).host);
  if (const auto* nothing = std::get_if<Unallocated>(&first))
    return goes_on(nothing->host, std::get<Unallocated>(next).host);
  return false;
}

}  // namespace

Run map_run(const MappingRules& rules, std::span<const L2Entry> entries, GuestOffset offset,
            uint64_t bytes) noexcept {
  const Geometry& geometry = rules.geometry;
  GuestCluster first = geometry.cluster_of(offset);
  Run run{map_one(rules, entries[0], offset), 0};
  uint64_t unit = std::holds_alternative<Compressed>(run.what) ? geometry.cluster_size()
                                                               : geometry.subcluster_size();
  run.bytes = unit - offset.value % unit;
  while (run.bytes < bytes) {
    GuestOffset next = offset + run.bytes;
    uint64_t index = geometry.cluster_of(next) - first;
    if (index >= entries.size()) break;
    if (!continues(run.what, map_one(rules, entries[index], next), run.bytes)) break;
    run.bytes += unit;
  }
  run.bytes = std::min(run.bytes, bytes);
  return run;
}

}  // namespace strata::qcow2
