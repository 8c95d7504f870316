/**
 * `signalman link`: a QR code for the phone, and the URL alone on a line of stdout, again whenever the code was renewed.
 * With `--json` one line per event instead; with `--web` the code also as a page, for a machine whose terminal is out of sight.
 */
import { renderSVG, renderUnicodeCompact } from "uqr";
import { BridgeError } from "../core/errors.ts";
import type { Address } from "../core/model.ts";
import { maskNumber } from "../log.ts";
import type { LinkProgress } from "../signal/transport.ts";
import { listen } from "../status/listen.ts";
import { openLink } from "./adapters.ts";
import { configOf, depsOf, type Cli } from "./io.ts";
import { confirm } from "./onboard.ts";
import { newToken } from "./remote.ts";

type Options = {
  /** How the phone lists this device. */
  readonly name?: string;
  readonly json?: true;
  readonly web?: true;
  readonly force?: true;
  /** An account that is linked already is good enough. */
  readonly isOptional?: true;
};

/** Resolves to 0 once the account is linked and the phone may write. */
export const link = (cli: Cli, options: Options): Promise<number> => linkBy(openLink, cli, options);

/** `link` by other means than the transport's own: for tests. */
export async function linkBy(open: typeof openLink, cli: Cli, options: Options): Promise<number> {
  const config = configOf(cli);
  await using stack = new AsyncDisposableStack();
  const { steps, present } = await open(depsOf(cli, config, stack));
  if (present && options.isOptional) return 0;
  if (present && !options.force) await confirmReplace(cli, present);
  const showPage = options.web ? await openPage(cli, config.listen?.port ?? 0, stack) : null;
  for await (const progress of steps(options.name ?? "signalman", cli.signal)) {
    showPage?.(progress);
    if (options.json) cli.out(`${JSON.stringify(toEvent(progress))}\n`);
    else show(cli, progress);
    if (progress.event === "linked") return 0;
  }
  throw new BridgeError("not_linked", "Cannot link as nobody scanned the code");
}

/** The keys of the account that is linked now are wiped: only a person may say so. */
async function confirmReplace(cli: Cli, { number, aci }: Address): Promise<void> {
  const who = number === null ? String(aci).slice(0, 8) : maskNumber(number);
  if (await confirm(cli, `This home is linked to ${who}. Replace it?`)) return;
  throw new BridgeError("config", `Cannot link as this home is linked to ${who} already`, {
    hint: "Add --force to replace it, or set SIGNALMAN_HOME to another folder.",
  });
}

const howTo = "Scan it with the phone: Signal > Settings > Linked devices > Link a new device";

function show(cli: Cli, progress: LinkProgress): void {
  if (progress.event === "linked") {
    const { number } = progress.account;
    return cli.err(`Linked${number === null ? "" : ` to ${maskNumber(number)}`}. Start with: signalman run\n`);
  }
  const code = renderUnicodeCompact(progress.url, { border: 2, ecc: "L" });
  // The blocks are the light modules: on a light terminal they must not turn dark, as cameras refuse an inverted code.
  const shown = cli.isErrTty ? code.replace(/^.*$/gm, (line) => `\u001b[97;40m${line}\u001b[0m`) : code;
  cli.err(`\n${shown}\n\n${howTo}\n\n`);
  cli.out(`${progress.url}\n`);
}

function toEvent(progress: LinkProgress): Record<string, unknown> {
  if (progress.event === "url") return { event: "url", url: progress.url };
  const { number, aci, deviceId } = progress.account;
  return { event: "linked", account: number ?? aci, deviceId };
}

/**
 * Who sees the code can link the account to a device of theirs: loopback only, at an address that no other user of this
 * machine and no web page can guess. @throws BridgeError `config` where the port is taken
 */
async function openPage({ err }: Cli, port: number, stack: AsyncDisposableStack) {
  const path = `/${newToken()}`;
  let body = "<p>Waiting for a code…</p>";
  const headers = {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
  };
  const server = await listen({ host: "127.0.0.1", port }, ({ url }) =>
    new URL(url).pathname === path ? new Response(page(body), { headers }) : new Response("", { status: 404 }),
  );
  stack.defer(() => server.stop());
  err(`The code is also at ${server.url}${path}\n`);
  return (progress: LinkProgress): void =>
    void (body =
      progress.event === "linked"
        ? "<p>Linked. Start signalman and write to yourself.</p>"
        : `${renderSVG(progress.url, { border: 2 })}<p>${howTo.replaceAll(" > ", " › ")}</p>`);
}

const page = (
  body: string,
): string => `<!doctype html><html lang="en"><meta charset="utf-8"><title>signalman link</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="2">
<style>body{font:16px system-ui;max-width:22rem;margin:2rem auto;padding:0 1rem;text-align:center}svg{width:100%}</style>
${body}</html>`;
