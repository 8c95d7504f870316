/** What deliveries left to be done, once they are acknowledged. */
import { refreshAllKeys, takeContacts } from "./maintenance.ts";
import type { Job } from "./news.ts";
import type { IsAllowed } from "./receive.ts";
import { answerAgain, askAgain, retryLimiter } from "./retry.ts";
import type { SendDeps } from "./send.ts";

export function jobRunner(deps: SendDeps, isAllowed: IsAllowed, closing: () => AbortSignal) {
  const mayAsk = retryLimiter(deps.clock);
  const mayAnswer = retryLimiter(deps.clock);
  return (job: Job): Promise<void> => {
    switch (job.kind) {
      case "refreshKeys":
        return refreshAllKeys(deps);
      case "askAgain":
        return askAgain(deps, job, mayAsk);
      case "answerAgain":
        return answerAgain(deps, job, mayAnswer);
      case "contacts":
        return takeContacts(deps, job.pointer, isAllowed, closing());
    }
  };
}
