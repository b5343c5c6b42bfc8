import { setCurrentDetails, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import { searchAttributes } from './search-attributes.ts';

type Name = keyof typeof searchAttributes;
type Standing = Partial<Record<Name, string | null>> & { details: string };

/** Shows in the Temporal UI where the lifecycle stands: details on its page, the rest to filter by; null takes one away. */
export function display({ details, ...values }: Standing): void {
  setCurrentDetails(details);
  const shown = workflowInfo().typedSearchAttributes;
  // The entries of a standing are named like the attributes.
  const changed = (Object.entries(values) as [Name, string | null][]).flatMap(([name, value]) => {
    const key = searchAttributes[name];
    return value === (shown.get(key) ?? null) ? [] : [{ key, value }];
  });
  if (changed.length > 0) upsertSearchAttributes(changed);
}
