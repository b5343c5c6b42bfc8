/** Of equal requests under way, one is asked and all are answered: a workflow takes ten updates at a time. */
export function createCoalescer() {
  const underWay = new Map<string, Promise<unknown>>();
  return <T>(key: string, ask: () => Promise<T>): Promise<T> => {
    // A key belongs to one kind of request, so what is under way has its type.
    const asked = (underWay.get(key) as Promise<T> | undefined) ?? ask().finally(() => underWay.delete(key));
    underWay.set(key, asked);
    return asked;
  };
}
