/** `signalman reconnect`: skips the wait, and tries a halted line once. */
import { configOf, type Flags, type Io } from "./io.ts";
import { command } from "./remote.ts";

export async function reconnect(io: Io, flags: Flags): Promise<number> {
  await command(configOf(io, flags), "reconnect", {}, io.signal);
  io.out("Reconnecting.\n");
  return 0;
}
