// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/objects.h"

#include <functional>
#include <map>

#include "block/base/error.h"
#include "block/crypto/secret.h"
#include "block/graph/layer.h"
#include "qapi/runtime/keyval.h"
#include "qapi/visit_qom.h"
#include "tools/common/access_objects.h"

namespace strata::tools {
namespace {

// A tool is a process with one command line.
std::map<std::string, std::string, std::less<>>& secrets() {
  static std::map<std::string, std::string, std::less<>> all;
  return all;
}

}  // namespace

void define_object(const std::string& definition) {
  qapi::OptionValue option = qapi::parse_option(definition, "qom-type");
  auto object = option.is_json ? qapi::from_json<qapi::ObjectOptions>(option.value)
                               : qapi::from_keyval<qapi::ObjectOptions>(option.value);
  auto find_password = [](const std::string& id) { return find_defined_secret(id); };
  if (define_access_object(object, find_password)) return;
  if (object.qom_type != qapi::ObjectType::secret)
    throw Error("Invalid parameter '{}'", qapi::to_string(object.qom_type));
  if (!is_wellformed_id(object.id))
    throw Error("Parameter 'id' expects an identifier")
        .hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n");
  std::string value =
      crypto::load_secret(*object.get_if<qapi::SecretProperties>(), find_defined_secret);
  if (!secrets().emplace(object.id, std::move(value)).second)
    throw Error("attempt to add duplicate property '{}' to object (type 'container')", object.id);
}

std::optional<std::string> find_defined_secret(std::string_view id) {
  auto found = secrets().find(id);
  if (found == secrets().end()) return std::nullopt;
  return found->second;
}

}  // namespace strata::tools
