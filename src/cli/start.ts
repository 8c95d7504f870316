/** The start on a terminal: whatever is missing for the first answer is asked for, and nothing is asked twice. */
import type { Config } from "../config.ts";
import { plainText } from "../core/reply.ts";
import { configOf, hasPerson, withStore, type Cli } from "./io.ts";
import { link } from "./link.ts";
import { isFirstStart, onboard } from "./onboard.ts";
import { run } from "./run.ts";

/** `run`, after the questions of the first start, and after the code where this program is to be linked. */
export async function start(cli: Cli): Promise<number> {
  if (isFirstStart(cli)) await onboard(cli);
  const config = configOf(cli);
  if (hasPerson(cli) && config.transport === "native" && !(await isLinked(config))) {
    await link(cli, { isOptional: true });
    if (config.allow.some(({ kind }) => kind === "self")) await greetOwner(cli, config);
  }
  return run(cli);
}

const native = () => import("../signal/native/index.ts");

const isLinked = async (config: Config): Promise<boolean> =>
  (await withStore(config, async ({ db }) => (await native()).findAccount(db) !== null)) ?? false;

/** The first word in Note to Self shows that all is well, and where to write. */
async function greetOwner(cli: Cli, config: Config): Promise<void> {
  const text = "Hello from signalman. Write here, and Claude answers; /help shows what else there is.";
  await withStore(config, async ({ db, outbox, settings }) => {
    outbox.add("send", "hello", 0, { kind: "self" }, plainText(text), cli.clock.now());
    // That was the welcome.
    const aci = (await native()).findAccount(db)?.aci;
    if (aci) settings.set(`welcomed:${aci}`, String(cli.clock.now()));
  });
  cli.err(
    "Write to Claude in Note to Self. Signal rings for nothing there: SIGNALMAN_NOTIFY can (docs/linking.md).\n\n",
  );
}
