/**
 * One call at a time, calls before polls. signal-cli-rest-api starts a process per request, and each takes the account's lock:
 * a send that arrives while a poll runs would wait inside the container, and so would everything behind it. Here it waits in
 * order, and no poll starts while anything else does.
 */
export type Turnstile = {
  call<T>(work: () => Promise<T>): Promise<T>;
  poll<T>(work: () => Promise<T>): Promise<T>;
  /** No call runs or waits; a poll may. */
  isFree(): boolean;
};

export function createTurnstile(): Turnstile {
  const calls: (() => void)[] = [];
  const polls: (() => void)[] = [];
  let isTaken = false;
  let callCount = 0;

  async function enter<T>(queue: (() => void)[], work: () => Promise<T>): Promise<T> {
    if (isTaken) await new Promise<void>((resolve) => queue.push(resolve));
    isTaken = true;
    try {
      return await work();
    } finally {
      // The place is handed on while it is taken, so that nobody slips in between.
      const next = calls.shift() ?? polls.shift();
      if (next) next();
      else isTaken = false;
    }
  }

  return {
    call(work) {
      callCount++;
      return enter(calls, work).finally(() => callCount--);
    },
    poll: (work) => enter(polls, work),
    isFree: () => callCount === 0,
  };
}
