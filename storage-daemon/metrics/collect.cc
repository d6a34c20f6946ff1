// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/metrics/collect.h"

#include <array>

#include "storage-daemon/metrics/exposition.h"

namespace strata {
namespace {

using Kind = Exposition::Kind;

constexpr std::array<std::pair<IoKind, std::string_view>, kIoKinds> kOperations{{
    {IoKind::read, "read"},
    {IoKind::write, "write"},
    {IoKind::flush, "flush"},
    {IoKind::discard, "discard"},
    {IoKind::zeroes, "write-zeroes"},
}};

// Something with request counters: an export or a node.
struct Counted {
  MetricLabels labels;
  std::array<IoTotals, kIoKinds> totals;

  Counted(MetricLabels which, const IoStats& stats) : labels(std::move(which)) {
    for (size_t i = 0; i < kIoKinds; ++i) totals[i] = stats.totals(kOperations[i].first);
  }
};

// Writes one metric for all of `items` and all operations.
template <class Write>
void write_each(const std::vector<Counted>& items, Write&& write) {
  for (const Counted& item : items) {
    MetricLabels labels = item.labels;
    labels.emplace_back("operation", "");
    for (size_t i = 0; i < kIoKinds; ++i) {
      labels.back().second = kOperations[i].second;
      write(labels, item.totals[i]);
    }
  }
}

void write_requests(Exposition& out, const std::string& prefix, const std::vector<Counted>& items) {
  auto metric = [&](const char* name, Kind kind, const char* help, uint64_t IoTotals::* member) {
    out.begin(prefix + name, kind, help);
    write_each(items, [&](const MetricLabels& labels, const IoTotals& totals) {
      out.add(labels, static_cast<double>(totals.*member));
    });
  };
  metric("_requests_total", Kind::counter, "Requests that have ended.", &IoTotals::requests);
  metric("_bytes_total", Kind::counter, "Bytes of requests that succeeded.", &IoTotals::bytes);
  metric("_errors_total", Kind::counter, "Requests that failed.", &IoTotals::failed);
  metric("_requests_in_flight", Kind::gauge, "Requests under way.", &IoTotals::in_flight);
  out.begin(prefix + "_request_seconds", Kind::histogram, "Time from start to end of a request.");
  write_each(items, [&](const MetricLabels& labels, const IoTotals& totals) {
    out.add_latency(labels, totals);
  });
}

void write_contexts(Exposition& out, const std::vector<const AioContext*>& contexts) {
  using Counters = AioContext::Counters;
  auto metric = [&](const char* name, const char* help, std::atomic<uint64_t> Counters::* member,
                    double scale = 1) {
    out.begin(name, Kind::counter, help);
    for (const AioContext* context : contexts) {
      double value = static_cast<double>((context->counters().*member).load());
      out.add({{"context", context->name()}}, value / scale);
    }
  };
  metric("strata_context_turns_total", "Turns of the event loop.", &Counters::turns);
  metric("strata_context_sleeps_total", "Times the loop slept in the kernel.", &Counters::sleeps);
  metric("strata_context_poll_hits_total", "Times polling found work.", &Counters::poll_hits);
  metric("strata_context_poll_misses_total", "Times polling ended in sleep.",
         &Counters::poll_misses);
  metric("strata_context_poll_seconds_total", "Time spent polling.", &Counters::poll_ns, 1e9);
  metric("strata_context_wake_ups_total", "Times another thread woke the loop.",
         &Counters::wake_ups);
}

}  // namespace

std::string collect_metrics(const BlockLayer& layer, const ExportRegistry& exports,
                            const std::vector<const AioContext*>& contexts) {
  Exposition out;
  std::vector<Counted> items;
  for (const auto& known : exports.all()) {
    if (!known->backend().is_attached()) continue;
    items.emplace_back(MetricLabels{{"export", known->id()},
                                    {"type", qapi::to_string(known->type())},
                                    {"node", known->backend().node().name()}},
                       known->backend().stats());
  }
  write_requests(out, "strata_export", items);
  items.clear();
  for (const Node* node : layer.nodes()) {
    if (!node->is_open()) continue;
    items.emplace_back(MetricLabels{{"node", node->name()}, {"driver", node->format_name()}},
                       node->io().stats);
  }
  write_requests(out, "strata_node", items);
  write_contexts(out, contexts);
  return out.take();
}

}  // namespace strata
