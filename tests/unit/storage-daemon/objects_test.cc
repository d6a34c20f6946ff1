// SPDX-License-Identifier: GPL-2.0-or-later
#include <catch2/catch.hpp>

#include "block/base/base64.h"
#include "block/base/error.h"
#include "block/base/throttle.h"
#include "block/base/trace.h"
#include "block/base/trace_option.h"
#include "storage-daemon/objects/secret.h"
#include "storage-daemon/objects/throttle_group.h"

namespace strata {
namespace {

template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.text();
  }
  return "no error";
}

const std::string kKey = "01234567890123456789012345678901";
const std::string kIv(16, '\0');

TEST_CASE("a secret is decrypted", "[storage-daemon]") {
  // openssl enc -aes-256-cbc of "hello" with this key and vector.
  CHECK(crypto::decrypt_secret(decode_base64("0KV99uNYruGR2PcDDfDCfw=="), kKey, kIv) == "hello");
}

TEST_CASE("what cannot be decrypted says why", "[storage-daemon]") {
  CHECK(error_of([] { crypto::decrypt_secret("abc", kKey, kIv); }) ==
        "Length 3 must be a multiple of block size 16");
  CHECK(error_of([] { crypto::decrypt_secret(std::string(16, 'x'), kKey, "short"); }) ==
        "IV should be 16 bytes in length not 5");
  CHECK(error_of([] { crypto::decrypt_secret(std::string(16, '\0'), kKey, kIv); }) ==
        "Incorrect number of padding bytes (111) found on decrypted data");
  CHECK_THROWS_AS(crypto::decrypt_secret("", kKey, kIv), Error);
}

TEST_CASE("a secret may be encrypted with another", "[storage-daemon]") {
  auto none = [](std::string_view) -> std::optional<std::string> { return std::nullopt; };
  qapi::SecretProperties plain;
  plain.data = kKey;
  SecretObject key("k", plain, none);
  qapi::SecretProperties sealed;
  sealed.data = "0KV99uNYruGR2PcDDfDCfw==";
  sealed.format = qapi::QCryptoSecretFormat::base64;
  sealed.keyid = "k";
  sealed.iv = "AAAAAAAAAAAAAAAAAAAAAA==";
  auto only_key = [&](std::string_view id) {
    return id == "k" ? std::optional(key.value()) : std::nullopt;
  };
  SecretObject secret("s", sealed, only_key);
  CHECK(secret.value() == "hello");
  CHECK(error_of([&] { SecretObject("s", sealed, none); }) == "No secret with id 'k'");
  sealed.iv.reset();
  CHECK(error_of([&] { SecretObject("s", sealed, only_key); }) ==
        "IV is required to decrypt secret");
}

TEST_CASE("limits that contradict each other are refused", "[storage-daemon]") {
  auto error = [](auto set) {
    qapi::ThrottleLimits limits;
    set(limits);
    return error_of([&] {
      qapi::ThrottleGroupProperties options;
      options.limits = limits;
      ThrottleGroupObject("t", options);
    });
  };
  CHECK(error([](auto& l) { l.iops_total = 100; }) == "no error");
  CHECK(error([](auto& l) { l.iops_total = l.iops_read = 1; }) ==
        "bps/iops/max total values and read/write values cannot be used at the same time");
  CHECK(error([](auto& l) { l.bps_total_max = 1; }) ==
        "bps_max/iops_max require corresponding bps/iops values");
  CHECK(error([](auto& l) { l.bps_total = 10, l.bps_total_max = 1; }) ==
        "bps_max/iops_max cannot be lower than bps/iops");
  CHECK(error([](auto& l) { l.bps_total = -10; }) ==
        "bps/iops/max values must be within [0, 1000000000000000]");
  CHECK(error([](auto& l) { l.iops_total = 10, l.iops_total_max_length = 5; }) ==
        "burst length set without burst rate");
  CHECK(error([](auto& l) { l.iops_size = 10; }) == "iops size requires an iops value to be set");
}

TEST_CASE("limits that are refused change nothing", "[storage-daemon]") {
  qapi::ThrottleGroupProperties options;
  options.x_iops_total = 5;
  ThrottleGroupObject group("t", options);
  CHECK(group.config()[ThrottleBucket::iops_total].average == 5);
  qapi::ThrottleLimits limits;
  limits.iops_total = 7;
  limits.iops_read = 7;
  CHECK_THROWS_AS(group.set_limits(limits), Error);
  CHECK(group.config()[ThrottleBucket::iops_total].average == 5);
}

TEST_CASE("trace points are switched by pattern", "[storage-daemon]") {
  TracePoint one("unit_test_one");
  TracePoint two("unit_test_two");
  CHECK(enable_trace_points("unit_test_*", true) == 2);
  CHECK(one.is_enabled());
  CHECK(apply_trace_option(parse_trace_option("-unit_test_two")).empty());
  CHECK_FALSE(two.is_enabled());
  std::vector<TracePattern> unknown = apply_trace_option(parse_trace_option("unit_test_none"));
  REQUIRE(unknown.size() == 1);
  CHECK(unknown[0].name == "unit_test_none");
  CHECK(error_of([] { parse_trace_option("x=y"); }) == "Invalid parameter 'x'");
}

}  // namespace
}  // namespace strata
