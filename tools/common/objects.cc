// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/objects.h"

#include <array>
#include <functional>
#include <map>
#include <set>

#include "block/base/error.h"
#include "block/crypto/secret.h"
#include "block/graph/layer.h"
#include "qapi/runtime/keyval.h"
#include "qapi/runtime/type_info.h"
#include "qapi/visit_qom.h"
#include "tools/common/access_objects.h"

namespace strata::tools {
namespace {

// A tool is a process with one command line.
std::map<std::string, std::string, std::less<>>& secrets() {
  static std::map<std::string, std::string, std::less<>> all;
  return all;
}

// What define_object() makes.
constexpr std::array kTypes{
    qapi::ObjectType::authz_list,    qapi::ObjectType::authz_listfile,
    qapi::ObjectType::authz_pam,     qapi::ObjectType::authz_simple,
    qapi::ObjectType::secret,        qapi::ObjectType::tls_creds_anon,
    qapi::ObjectType::tls_creds_psk, qapi::ObjectType::tls_creds_x509,
};

std::string_view type_name(const qapi::TypeInfo& type) {
  if (type.kind == qapi::Kind::boolean) return "bool";
  if (type.kind == qapi::Kind::string) return "string";
  return type.kind == qapi::Kind::array ? type_name(type.array->element()) : type.name;
}

void add_members(const qapi::TypeInfo& type, std::set<std::string>& lines) {
  if (type.object->base != nullptr) add_members(type.object->base(), lines);
  for (const qapi::MemberInfo& member : type.object->members)
    if (member.name != "loaded")  // is for the daemon's users of old
      lines.insert(fmt::format("  {}=<{}>\n", member.name, type_name(member.type())));
}

std::string help_of(qapi::ObjectType type) {
  std::set<std::string> lines;
  const qapi::ObjectInfo& all = *qapi::type_info<qapi::ObjectOptions>().object;
  add_members(all.branches[static_cast<size_t>(type)].type(), lines);
  std::string text = fmt::format("{} options:\n", qapi::to_string(type));
  for (const std::string& line : lines) text += line;
  return text;
}

}  // namespace

std::optional<std::string> object_help(const std::string& definition) {
  qapi::OptionValue option = qapi::parse_option(definition, "qom-type");
  if (!option.help) return std::nullopt;
  const boost::json::value* wanted = option.value.as_object().if_contains("qom-type");
  std::string text = "List of user creatable objects:\n";
  for (qapi::ObjectType type : kTypes) {
    if (wanted != nullptr && wanted->is_string() && wanted->as_string() == qapi::to_string(type))
      return help_of(type);
    text += fmt::format("  {}\n", qapi::to_string(type));
  }
  return text;
}

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
