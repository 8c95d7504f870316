/** `signalman reconnect`: skips the wait, and tries a halted line once; with `--captcha` hands in what Signal asked for first. */
import { configOf, type Flags, type Io } from "./io.ts";
import { command } from "./remote.ts";

export async function reconnect(io: Io, flags: Flags, { captcha }: { captcha?: string }): Promise<number> {
  await command(configOf(io, flags), "reconnect", captcha === undefined ? {} : { captcha }, io.signal);
  io.out("Reconnecting.\n");
  return 0;
}
