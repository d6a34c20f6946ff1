// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <vector>

#include "block/export/registry.h"
#include "block/graph/layer.h"

namespace strata {

// Everything there is to measure, as Prometheus reads it: the requests, bytes, errors, latencies
// and requests in flight of each export and node, and the loops' turns, sleeps and polling.
std::string collect_metrics(const BlockLayer& layer, const ExportRegistry& exports,
                            const std::vector<const AioContext*>& contexts);

}  // namespace strata
