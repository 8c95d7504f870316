/** Remembers the captcha that a send was refused for, until its solution is handed in. */
import { BridgeError } from "../core/errors.ts";

export interface Challenge {
  /** Runs a send; what it is refused for is remembered. */
  watch<T>(send: () => Promise<T>): Promise<T>;
  /** Hands the solution to `submit` with the challenge's token. @throws BridgeError `send_rejected` where none was asked for */
  answer(submit: (token: string) => Promise<void>): Promise<void>;
}

export function createChallenge(): Challenge {
  let token: string | null = null;
  return {
    async watch(send) {
      try {
        return await send();
      } catch (error) {
        if (error instanceof BridgeError) token = error.challenge ?? token;
        throw error;
      }
    },
    async answer(submit) {
      if (token === null) throw new BridgeError("send_rejected", "Cannot hand in a captcha as none was asked for");
      await submit(token);
      token = null;
    },
  };
}
