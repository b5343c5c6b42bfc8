import { setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import { searchAttributes } from './search-attributes.ts';

type Standing = Partial<Record<keyof typeof searchAttributes, string | null>> & { details: string };

/** Shows in the Temporal UI where the lifecycle stands: details on its page, the rest to filter by; null takes one away. */
export function display({ details, ...values }: Standing): void {
  setCurrentDetails(details);
  const { device, template, status, waitingFor } = searchAttributes;
  const pairs = [
    { key: device, value: values.device },
    { key: template, value: values.template },
    { key: status, value: values.status },
    { key: waitingFor, value: values.waitingFor },
  ];
  const changed = pairs.flatMap(({ key, value }) => (value === undefined ? [] : [{ key, value }]));
  if (changed.length > 0) upsertSearchAttributes(changed);
}
