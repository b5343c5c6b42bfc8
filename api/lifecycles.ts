/** Where a lifecycle is watched: its page in the Temporal UI shows the latest run of the workflow's id. */
export const lifecycleOf = (
  { temporalUiUrl, namespace }: { temporalUiUrl: string; namespace: string },
  workflowId: string,
) => ({
  workflowId,
  url: `${temporalUiUrl}/namespaces/${encodeURIComponent(namespace)}/workflows/${encodeURIComponent(workflowId)}`,
});
