// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/throttle_group.h"

#include <array>
#include <limits>

#include "block/base/error.h"
#include "qapi/visit_block_core.h"
#include "qapi/visit_qom.h"

namespace strata {
namespace {

using boost::json::value;
using enum ThrottleBucket;

enum class Field { average, burst, burst_length, operation_size };

// One number of the configuration, under its names in the schema.
struct Number {
  std::string_view name;  // in limits; the property has "x-" before it
  ThrottleBucket bucket;
  Field field;
  std::optional<int64_t> qapi::ThrottleLimits::* member;
  std::optional<int64_t> qapi::ThrottleGroupProperties::* property;
};

using L = qapi::ThrottleLimits;
using P = qapi::ThrottleGroupProperties;

constexpr std::array kNumbers{
    Number{"bps-write-max-length", bps_write, Field::burst_length, &L::bps_write_max_length,
           &P::x_bps_write_max_length},
    Number{"iops-total-max-length", iops_total, Field::burst_length, &L::iops_total_max_length,
           &P::x_iops_total_max_length},
    Number{"iops-size", iops_total, Field::operation_size, &L::iops_size, &P::x_iops_size},
    Number{"bps-total", bps_total, Field::average, &L::bps_total, &P::x_bps_total},
    Number{"iops-read-max-length", iops_read, Field::burst_length, &L::iops_read_max_length,
           &P::x_iops_read_max_length},
    Number{"bps-write", bps_write, Field::average, &L::bps_write, &P::x_bps_write},
    Number{"iops-write-max-length", iops_write, Field::burst_length, &L::iops_write_max_length,
           &P::x_iops_write_max_length},
    Number{"bps-read-max", bps_read, Field::burst, &L::bps_read_max, &P::x_bps_read_max},
    Number{"iops-read-max", iops_read, Field::burst, &L::iops_read_max, &P::x_iops_read_max},
    Number{"bps-total-max", bps_total, Field::burst, &L::bps_total_max, &P::x_bps_total_max},
    Number{"bps-read-max-length", bps_read, Field::burst_length, &L::bps_read_max_length,
           &P::x_bps_read_max_length},
    Number{"iops-read", iops_read, Field::average, &L::iops_read, &P::x_iops_read},
    Number{"bps-read", bps_read, Field::average, &L::bps_read, &P::x_bps_read},
    Number{"bps-write-max", bps_write, Field::burst, &L::bps_write_max, &P::x_bps_write_max},
    Number{"iops-total-max", iops_total, Field::burst, &L::iops_total_max, &P::x_iops_total_max},
    Number{"iops-total", iops_total, Field::average, &L::iops_total, &P::x_iops_total},
    Number{"iops-write", iops_write, Field::average, &L::iops_write, &P::x_iops_write},
    Number{"bps-total-max-length", bps_total, Field::burst_length, &L::bps_total_max_length,
           &P::x_bps_total_max_length},
    Number{"iops-write-max", iops_write, Field::burst, &L::iops_write_max, &P::x_iops_write_max},
};

int64_t get(const ThrottleConfig& config, const Number& number) {
  const ThrottleLimit& limit = config[number.bucket];
  switch (number.field) {
    case Field::average:
      return static_cast<int64_t>(limit.average);
    case Field::burst:
      return static_cast<int64_t>(limit.burst);
    case Field::burst_length:
      return limit.burst_length;
    case Field::operation_size:
      return static_cast<int64_t>(config.operation_size);
  }
  return 0;
}

void set(ThrottleConfig& config, const Number& number, int64_t to) {
  ThrottleLimit& limit = config[number.bucket];
  switch (number.field) {
    case Field::average:
      // A negative number is far out of range as an unsigned one.
      limit.average = static_cast<uint64_t>(to);
      break;
    case Field::burst:
      limit.burst = static_cast<uint64_t>(to);
      break;
    case Field::burst_length:
      if (to < 0 || to > std::numeric_limits<uint32_t>::max())
        throw Error("{} value must be in the range [0, {}]", number.name,
                    std::numeric_limits<uint32_t>::max());
      limit.burst_length = static_cast<uint32_t>(to);
      break;
    case Field::operation_size:
      config.operation_size = static_cast<uint64_t>(to);
      break;
  }
}

const ThrottleConfig& config_of(const UserObject& object) {
  return static_cast<const ThrottleGroupObject&>(object).config();
}

value get_limits(const UserObject& object) {
  qapi::ThrottleLimits limits;
  for (const Number& number : kNumbers) limits.*number.member = get(config_of(object), number);
  return qapi::to_json(limits);
}

void set_limits(UserObject& object, const value& to) {
  static_cast<ThrottleGroupObject&>(object).set_limits(
      qapi::from_json<qapi::ThrottleLimits>(to, "limits"));
}

// A property for each number.
template <size_t Index>
constexpr Property number_property(std::string_view name) {
  return {name, "int",
          [](const UserObject& o) -> value { return get(config_of(o), kNumbers[Index]); },
          [](UserObject&, const value&) {
            throw Error("Property cannot be set after initialization");
          }};
}

constexpr std::array kProperties{
    number_property<0>("x-bps-write-max-length"),
    number_property<1>("x-iops-total-max-length"),
    number_property<2>("x-iops-size"),
    Property{"limits", "ThrottleLimits", get_limits, set_limits},
    number_property<3>("x-bps-total"),
    number_property<4>("x-iops-read-max-length"),
    number_property<5>("x-bps-write"),
    number_property<6>("x-iops-write-max-length"),
    number_property<7>("x-bps-read-max"),
    number_property<8>("x-iops-read-max"),
    number_property<9>("x-bps-total-max"),
    number_property<10>("x-bps-read-max-length"),
    number_property<11>("x-iops-read"),
    number_property<12>("x-bps-read"),
    number_property<13>("x-bps-write-max"),
    number_property<14>("x-iops-total-max"),
    number_property<15>("x-iops-total"),
    number_property<16>("x-iops-write"),
    number_property<17>("x-bps-total-max-length"),
    number_property<18>("x-iops-write-max"),
};

// The older way: a property for each number, not checked against the others before the end.
void apply_properties(ThrottleConfig& config, const qapi::ThrottleGroupProperties& options) {
  for (const Number& number : kNumbers) {
    const std::optional<int64_t>& to = options.*number.property;
    if (!to) continue;
    if (*to < 0) throw Error("Property values cannot be negative");
    if (number.field == Field::burst_length && *to > std::numeric_limits<uint32_t>::max())
      throw Error("x-{} value must be in therange [0, {}]", number.name,
                  std::numeric_limits<uint32_t>::max());
    set(config, number, *to);
  }
}

}  // namespace

ThrottleGroupObject::ThrottleGroupObject(std::string id,
                                         const qapi::ThrottleGroupProperties& options)
    : UserObject(std::move(id), "throttle-group") {
  if (options.limits) set_limits(*options.limits);
  ThrottleConfig config = config_;
  apply_properties(config, options);
  check_throttle_config(config);
  config_ = config;
}

void ThrottleGroupObject::set_limits(const qapi::ThrottleLimits& limits) {
  ThrottleConfig config = config_;
  for (const Number& number : kNumbers) {
    if (const std::optional<int64_t>& to = limits.*number.member) set(config, number, *to);
  }
  check_throttle_config(config);
  config_ = config;
}

std::span<const Property> ThrottleGroupObject::property_table() noexcept {
  return kProperties;
}

}  // namespace strata
