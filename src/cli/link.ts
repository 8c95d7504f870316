/**
 * `signalman link`: a QR code for the phone, and the URL alone on a line of stdout, again whenever the code was renewed.
 * With `--json` one line per event instead.
 */
import { renderUnicodeCompact } from "uqr";
import { BridgeError } from "../core/errors.ts";
import { isSameAddress, type Address, type Millis } from "../core/model.ts";
import { maskAddress } from "../log.ts";
import type { LinkProgress } from "../signal/transport.ts";
import { openLink } from "./adapters.ts";
import { configOf, depsOf, hasColour, wrong, type Cli } from "./io.ts";
import { confirmAtTerminal } from "./onboard.ts";
import { command, pidOf } from "./remote.ts";

type Options = {
  readonly name?: string;
  readonly json?: true;
  readonly force?: true;
  /** Keeps an account that is linked already, in place of an error. */
  readonly isOptional?: true;
};

/** Resolves to 0 once the account is linked and the phone may write. */
export const linkCommand = (cli: Cli, options: Options): Promise<number> => linkBy(openLink, cli, options);

/** `link` with a given `open`, for tests. */
export async function linkBy(open: typeof openLink, cli: Cli, options: Options): Promise<number> {
  const config = configOf(cli);
  await using stack = new AsyncDisposableStack();
  const deps = depsOf(cli, config, stack);
  const isBeside = (error: unknown): boolean => error instanceof BridgeError && error.code === "home_in_use";
  let isShared = false;
  const { steps, present } = await open(deps).catch(async (error: unknown) => {
    if (!isBeside(error)) throw error;
    await command(config, "leave", { pid: process.pid }, cli.signal).catch(() => {
      const pid = pidOf(config.home);
      const hint = `End it where it runs (Ctrl-C${pid === null ? "" : `, or: kill ${pid}`}), and run this again.`;
      throw new BridgeError("home_in_use", (error as BridgeError).message, { hint });
    });
    isShared = true;
    cli.err("The signalman that runs pauses while you link, and goes on afterwards.\n");
    return openLater(() => open(deps), isBeside, cli);
  });
  if (present && options.isOptional) return 0;
  if (present && !options.force) await confirmReplace(cli, present);
  for await (const progress of steps(options.name ?? "signalman", cli.signal)) {
    if (options.json) cli.out(`${JSON.stringify(toEvent(progress))}\n`);
    else show(cli, progress, options.isOptional || isShared);
    if (progress.event !== "linked") continue;
    if (present && !isSameAddress(present, progress.account))
      cli.err(
        "What was said with the account of before is gone from here; at Anthropic it is deleted with the next start.\n",
      );
    return 0;
  }
  throw new BridgeError("not_linked", "Cannot link as the code was not scanned");
}

/** Opens the home once the daemon, which stops in order first, has left it. */
async function openLater<T>(open: () => Promise<T>, isBeside: (error: unknown) => boolean, cli: Cli): Promise<T> {
  const deadline = cli.clock.monotonic() + leaveMs;
  for (;;) {
    try {
      return await open();
    } catch (error) {
      if (!isBeside(error) || cli.signal.aborted || cli.clock.monotonic() > deadline) throw error;
    }
    await cli.clock.sleep(200, cli.signal);
  }
}
/** The longest wait for the daemon, which stops in less. */
const leaveMs: Millis = 30_000;

/** Asks before linking wipes the keys of the present account, since only a person may decide that. */
async function confirmReplace(cli: Cli, present: Address): Promise<void> {
  const who = maskAddress(present);
  if (await confirmAtTerminal(cli, `This home is linked to ${who}. Replace it?`)) return;
  const hint = "Add --force to replace it, or set SIGNALMAN_HOME to another folder.";
  throw wrong(`Cannot link as this home is linked to ${who} already`, hint);
}

const howTo = "Scan it with the phone: Signal > Settings > Linked devices > Link a new device";

function show(cli: Cli, progress: LinkProgress, isRunning = false): void {
  if (progress.event === "linked")
    return cli.err(`Linked to ${maskAddress(progress.account)}.${isRunning ? "" : " Start with: signalman run"}\n`);
  const code = renderUnicodeCompact(progress.url, { border: 2, ecc: "L" });
  const width = code.indexOf("\n");
  const columns = cli.isErrTty ? process.stderr.columns : width;
  if (columns < width)
    cli.err(
      `\nThe code needs ${width} columns, and this terminal has ${columns}: make it wider, and the next code is drawn; or show the link below as a code in another way. It lasts a minute, and is for your eyes only.\n\n`,
    );
  // The blocks are the light modules: on a light terminal they must not turn dark, as cameras refuse an inverted code.
  else if (cli.isErrTty && hasColour(cli))
    cli.err(`\n${code.replace(/^.*$/gm, (line) => `\u001b[97;40m${line}\u001b[0m`)}\n\n${howTo}\n\n`);
  else cli.err(`\n${code}\n\n${howTo}\n\n`);
  cli.out(`${progress.url}\n`);
}

function toEvent(progress: LinkProgress): Record<string, unknown> {
  if (progress.event === "url") return { event: "url", url: progress.url };
  const { number, aci, deviceId } = progress.account;
  return { event: "linked", account: number ?? aci, deviceId };
}
