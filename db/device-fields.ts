import { and, not, or, sql, type SQL } from 'drizzle-orm';
import {
  attribute,
  FieldFault,
  flag,
  instant,
  isNotTrue,
  negated,
  text,
  word,
  type Field,
  type Fields,
} from './fields.ts';
import { compileFilter } from './filters.ts';
import type { GroupRow } from './groups.ts';
import { deviceSoftware, groupMembers } from './rollout-schema.ts';
import { certificates, devices, presence } from './schema.ts';

/**
 * What devices may be filtered by, each with its index. Conditions are on the table `devices` by its own name. `groups`
 * are those that the filter may name (`resolveGroups`): another name is a fault, and so is a dynamic group in the filter
 * of a group. Conditions on other tables are correlated, so that Postgres may go either way: from their index to the
 * devices, or from the devices to their key.
 */
export function deviceFields(groups: GroupRow[], options: { ofGroup?: boolean } = {}): Fields {
  return {
    name: text(devices.name, { fold: true }),
    template: text(devices.template),
    state: word(devices.state, ['REGISTERED', 'ACTIVE', 'BLOCKED']),
    createdAt: instant(devices.createdAt, { id: devices.id }),
    group: group(groups, options),
    connected: flag(
      sql`exists (select from ${presence} where ${presence.deviceId} = ${devices.id} and ${presence.connected})`,
    ),
    'certificate.state': related(
      word(certificates.state, ['PENDING_ACTIVATION', 'ACTIVE', 'REVOKED']),
      (condition) =>
        sql`exists (select from ${certificates} where ${certificates.deviceId} = ${devices.id} and ${condition})`,
    ),
    'version.*': (product) =>
      related(
        text(deviceSoftware.version),
        (condition) => sql`exists (select from ${deviceSoftware} where ${deviceSoftware.deviceId} = ${devices.id}
          and ${deviceSoftware.product} = ${product} and ${condition})`,
      ),
    'attributes.*': (name) => attribute(devices.attributes, name),
  };
}

/** Whether the device is a member of one of these; `groups` holds what the filters of the dynamic ones name. */
export function isMember(named: GroupRow[], groups: GroupRow[]): SQL {
  return or(...membershipsOf(named, groups)) ?? sql`false`;
}

function membershipsOf(named: GroupRow[], groups: GroupRow[]): SQL[] {
  const listed = named.filter(({ filter }) => filter === null).map(({ id }) => id);
  const filters = named.flatMap((row) =>
    row.filter === null ? [] : [compileFilter(row.filter, deviceFields(groups, { ofGroup: true }))],
  );
  const isListed = sql`exists (select from ${groupMembers} where ${groupMembers.deviceId} = ${devices.id}
    and ${groupMembers.groupId} = any (${sql.param(listed)}::uuid[]))`;
  return listed.length > 0 ? [isListed, ...filters] : filters;
}

/** Groups by name. The filter of a dynamic one names only groups whose members are listed, so that none leads to itself. */
function group(groups: GroupRow[], { ofGroup = false }: { ofGroup?: boolean }): Field {
  const known = new Map(groups.map((row) => [row.name.toLowerCase(), row]));
  const find = (name: string) => {
    const row = known.get(name.toLowerCase());
    if (!row) throw new FieldFault(`there is no group ${name}`);
    if (ofGroup && row.filter !== null) throw new FieldFault(`${name} is dynamic; a group's filter names static ones`);
    return row;
  };
  return {
    operators: ['==', '!=', '=in=', '=out='],
    condition(operator, names) {
      const memberships = membershipsOf(names.map(find), groups);
      const joined = negated[operator] ? and(...memberships.map(isNotTrue)) : or(...memberships);
      // At least one name is compared.
      return joined as SQL;
    },
  };
}

/** What is said of another table's rows. `!=` and `=out=` hold where no row is as they say, also where there is no row. */
function related(field: Field, exists: (condition: SQL) => SQL): Field {
  return {
    operators: field.operators,
    condition(operator, values) {
      const positive = negated[operator];
      const found = exists(field.condition(positive ?? operator, values));
      return positive ? not(found) : found;
    },
  };
}
