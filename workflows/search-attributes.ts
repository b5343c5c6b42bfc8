import { defineSearchAttributeKey, SearchAttributeType } from '@temporalio/common';

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
