import { defineSearchAttributeKey, SearchAttributeType, type SearchAttributePair } from '@temporalio/common';

/** What the Temporal UI can filter on, in the words of the API. A namespace needs each of them registered as a keyword. */
export const searchAttributes = {
  device: defineSearchAttributeKey('LonghaulDevice', SearchAttributeType.KEYWORD),
  template: defineSearchAttributeKey('LonghaulTemplate', SearchAttributeType.KEYWORD),
  status: defineSearchAttributeKey('LonghaulStatus', SearchAttributeType.KEYWORD),
  wave: defineSearchAttributeKey('LonghaulWave', SearchAttributeType.KEYWORD),
  release: defineSearchAttributeKey('LonghaulRelease', SearchAttributeType.KEYWORD),
  pauseReason: defineSearchAttributeKey('LonghaulPauseReason', SearchAttributeType.KEYWORD),
  waitingFor: defineSearchAttributeKey('LonghaulWaitingFor', SearchAttributeType.KEYWORD),
};

type Values = Partial<Record<keyof typeof searchAttributes, string | undefined>>;

/** What a lifecycle is started with, so that it can be filtered for from its first moment on. */
export const searchAttributePairs = (values: Values): SearchAttributePair[] =>
  // The entries are named like the attributes.
  (Object.entries(values) as [keyof Values, string | undefined][]).flatMap(([name, value]) =>
    value === undefined ? [] : [{ key: searchAttributes[name], value }],
  );
