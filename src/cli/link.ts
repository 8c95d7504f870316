/**
 * `signalman link`: a QR code for the phone, and the URL alone on a line of stdout, again whenever the code was renewed.
 * With `--json` one line per event instead.
 */
import { renderUnicodeCompact } from "uqr";
import { BridgeError } from "../core/errors.ts";
import { maskNumber, startLog } from "../log.ts";
import type { LinkProgress } from "../signal/transport.ts";
import { openLink } from "./adapters.ts";
import { configOf, type Flags, type Io } from "./io.ts";

/** Resolves to 0 once the account is linked and the phone may write. */
export async function link(io: Io, flags: Flags, options: { name: string; json?: true }): Promise<number> {
  const config = configOf(io, flags);
  const log = startLog({ level: config.log, isPretty: io.isErrTty, write: io.err });
  const { steps, close } = await openLink(config, { log, clock: io.clock, random: io.random }, io.signal);
  try {
    for await (const progress of steps(options.name, io.signal)) {
      if (options.json) io.out(`${JSON.stringify(toEvent(progress))}\n`);
      else show(io, progress);
      if (progress.event === "linked") return 0;
    }
  } finally {
    await close();
  }
  throw new BridgeError("not_linked", "Cannot link as nobody scanned the code");
}

function show(io: Io, progress: LinkProgress): void {
  if (progress.event === "linked") {
    const { number } = progress.account;
    io.err(`Linked${number === null ? "" : ` to ${maskNumber(number)}`}. Start with: signalman run\n`);
    return;
  }
  const code = renderUnicodeCompact(progress.url, { border: 2, ecc: "L" });
  io.err(`\n${io.isErrTty ? code.replace(/^.*$/gm, whiteOnBlack) : code}\n\n`);
  io.err("On the phone: Signal > Settings > Linked devices > Link a new device. Scan this code.\n\n");
  io.out(`${progress.url}\n`);
}

/** The blocks are the light modules: on a light terminal they must not turn dark, as cameras refuse an inverted code. */
const whiteOnBlack = (line: string): string => `\u001b[97;40m${line}\u001b[0m`;

const toEvent = (progress: LinkProgress): Record<string, unknown> =>
  progress.event === "url"
    ? { event: "url", url: progress.url }
    : {
        event: "linked",
        account: progress.account.number ?? progress.account.aci,
        deviceId: progress.account.deviceId,
      };
