/** `signalman send TO TEXT`: a message through the running daemon, which sends it in order and repeats it where need be. */
import * as v from "valibot";
import { BridgeError } from "../core/errors.ts";
import { addressee } from "../settings.ts";
import { configOf, type Flags, type Io } from "./io.ts";
import { command } from "./remote.ts";

export async function send(io: Io, flags: Flags, to: string, text: string): Promise<number> {
  const config = configOf(io, flags);
  if (!v.is(addressee, to))
    throw new BridgeError("config", "Cannot send to this recipient as it is none", {
      hint: "Accepted: a number such as +15550100001, an account id (UUID), self, or group:<id in standard base64>.",
    });
  if (text.trim() === "") throw new BridgeError("config", "Cannot send nothing", { hint: "Give a text." });
  await command(config, "send", { to, text }, io.signal);
  io.out("In the outbox.\n");
  return 0;
}
