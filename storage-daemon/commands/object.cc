// SPDX-License-Identifier: GPL-2.0-or-later
#include "qapi/commands_qom.h"
#include "storage-daemon/commands/families.h"
#include "storage-daemon/daemon.h"
#include "storage-daemon/objects/qom.h"

namespace strata {
namespace {

namespace cmd = qapi::cmd;

void object_add(CommandContext& context, qapi::ObjectOptions options) {
  context.daemon.objects().add(context.loop, options);
}

void object_del(CommandContext& context, cmd::ObjectDel::Arguments arguments) {
  context.daemon.objects().remove(context.loop, arguments.id);
}

QomTree tree_of(CommandContext& context) {
  return QomTree(context.daemon.objects(), context.daemon.chardevs());
}

std::vector<qapi::ObjectPropertyInfo> qom_list(CommandContext& context,
                                               cmd::QomList::Arguments arguments) {
  return tree_of(context).list(arguments.path);
}

boost::json::value qom_get(CommandContext& context, cmd::QomGet::Arguments arguments) {
  return tree_of(context).get(arguments.path, arguments.property);
}

std::vector<qapi::ObjectPropertiesValues> qom_list_get(CommandContext& context,
                                                       cmd::QomListGet::Arguments arguments) {
  std::vector<qapi::ObjectPropertiesValues> all;
  for (const std::string& path : arguments.paths)
    all.push_back({.properties = tree_of(context).list_values(path)});
  return all;
}

void qom_set(CommandContext& context, cmd::QomSet::Arguments arguments) {
  tree_of(context).set(arguments.path, arguments.property, arguments.value);
}

std::vector<qapi::ObjectTypeInfo> qom_list_types(CommandContext&,
                                                 cmd::QomListTypes::Arguments arguments) {
  return list_object_types(arguments.implements ? &*arguments.implements : nullptr,
                           arguments.abstract.value_or(false));
}

std::vector<qapi::ObjectPropertyInfo> qom_list_properties(
    CommandContext&, cmd::QomListProperties::Arguments arguments) {
  return list_type_properties(arguments.typename_);
}

}  // namespace

void serve_object_commands(CommandTable& table) {
  table.serve<cmd::ObjectAdd>(&object_add);
  table.serve<cmd::ObjectDel>(&object_del);
  table.serve<cmd::QomList>(&qom_list);
  table.serve<cmd::QomGet>(&qom_get);
  table.serve<cmd::QomListGet>(&qom_list_get);
  table.serve<cmd::QomSet>(&qom_set);
  table.serve<cmd::QomListTypes>(&qom_list_types);
  table.serve<cmd::QomListProperties>(&qom_list_properties);
}

}  // namespace strata
