/**
 * `signalman link`: a QR code for the phone, and the URL alone on a line of stdout, again whenever the code was renewed.
 * With `--json` one line per event instead.
 */
import { createInterface } from "node:readline/promises";
import { renderUnicodeCompact } from "uqr";
import { BridgeError } from "../core/errors.ts";
import type { Address } from "../core/model.ts";
import { maskNumber, startLog } from "../log.ts";
import type { LinkProgress } from "../signal/transport.ts";
import { openLink } from "./adapters.ts";
import { configOf, type Flags, type Io } from "./io.ts";
import { openLinkPage, type LinkPage } from "./link-page.ts";

export type LinkOptions = { readonly name: string; readonly json?: true; readonly web?: true; readonly force?: true };

/** Resolves to 0 once the account is linked and the phone may write. */
export async function link(io: Io, flags: Flags, options: LinkOptions): Promise<number> {
  const config = configOf(io, flags);
  const log = startLog({ level: config.log, isPretty: io.isErrTty, write: io.err });
  const { steps, present, close } = await openLink(config, { log, clock: io.clock, random: io.random }, io.signal);
  let page: LinkPage | null = null;
  try {
    if (present && !options.force) await confirmReplace(io, present);
    page = options.web ? await openLinkPage(config.listen) : null;
    if (page) io.err(`The code is also at ${page.url}\n`);
    for await (const progress of steps(options.name, io.signal)) {
      page?.show(progress.event === "url" ? progress.url : null);
      if (options.json) io.out(`${JSON.stringify(toEvent(progress))}\n`);
      else show(io, progress);
      if (progress.event === "linked") return 0;
    }
  } finally {
    await close();
    await page?.stop();
  }
  throw new BridgeError("not_linked", "Cannot link as nobody scanned the code");
}

/** The keys of the account that is linked now are wiped: only a person may say so. */
async function confirmReplace(io: Io, { number, aci }: Address): Promise<void> {
  const who = number === null ? String(aci).slice(0, 8) : maskNumber(number);
  const refusal = new BridgeError("config", `Cannot link as this home is linked to ${who} already`, {
    hint: "Add --force to replace it, or set SIGNALMAN_HOME to another folder.",
  });
  if (!io.isErrTty || !process.stdin.isTTY) throw refusal;
  const prompt = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await prompt.question(`This home is linked to ${who}. Replace it? [y/N] `, { signal: io.signal });
  prompt.close();
  if (!/^y(es)?$/iu.test(answer.trim())) throw refusal;
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
