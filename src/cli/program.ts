/** The command line: names, flags and help. What a command does is in its own file, imported when it runs. */
import { Argument, Command, CommanderError, Option } from "commander";
import { nearest } from "../core/nearest.ts";
import { flagOf, settingKeys, settingRow, type SettingKey } from "../settings.ts";
import { commit, version } from "../version.ts";
import type { Shell } from "./completions.ts";
import { reportFailure, type Flags, type Io } from "./io.ts";
import type { LinkOptions } from "./link.ts";

const usageExit = 2;

/** Runs what `argv` (without program and script) says. Resolves to the exit code; never rejects. */
export async function runCommand(argv: readonly string[], io: Io): Promise<number> {
  let code = 0;
  const program = createProgram(io, (result) => (code = result));
  try {
    await program.parseAsync([...argv], { from: "user" });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : usageExit;
    return io.signal.aborted ? 1 : reportFailure(io, error);
  }
}

function createProgram(io: Io, done: (code: number) => void): Command {
  const program = new Command("signalman")
    .description("Chat with Claude over Signal, from one binary that loses nothing.")
    .usage("[options] [command]")
    .version(`signalman ${version} (${commit})`)
    .configureOutput({ writeOut: io.out, writeErr: io.err, getOutHasColors: () => false, getErrHasColors: () => false })
    .configureHelp({ showGlobalOptions: true })
    .showHelpAfterError("`signalman --help` lists what there is.")
    .exitOverride();
  for (const key of settingKeys) addFlag(program, key);
  const flags = (): Flags => program.opts();
  /** The handler of a command; commander hands over its arguments, its options and itself. */
  const does =
    <A extends unknown[]>(work: (...args: A) => Promise<number> | number) =>
    async (...args: A): Promise<void> =>
      done(await work(...args));

  program.argument("[command]", "what to do; without one: run").action(
    does(async (name?: string) => {
      if (name !== undefined) refuse(program, name);
      return start(io, flags());
    }),
  );
  addDaily(program, io, flags, does);
  addLooking(program, io, flags, does);
  addKeeping(program, io, flags, does);
  return program;
}

/** `run`; the very first time after the questions, and the QR code where this program is to be linked. */
async function start(io: Io, flags: Flags): Promise<number> {
  const { isFirstStart, onboard } = await import("./onboard.ts");
  if (isFirstStart(io, flags) && (await onboard(io, flags)))
    await (await import("./link.ts")).link(io, flags, { name: "signalman" });
  return (await import("./run.ts")).run(io, flags);
}

type Does = <A extends unknown[]>(work: (...args: A) => Promise<number> | number) => (...args: A) => Promise<void>;
type Json = { json?: true };
const jsonDoc = "for programs";

function addDaily(program: Command, io: Io, flags: () => Flags, does: Does): void {
  program
    .command("run")
    .description("start the bridge and stay in the foreground")
    .action(does(() => start(io, flags())));
  program
    .command("link")
    .description("make this program a linked device of your Signal account")
    .option("--name <name>", "how the phone lists this device", "signalman")
    .option("--json", "one line of JSON per event")
    .option("--web", "show the code in a page for the browser of this machine, too")
    .option("--force", "replace the account that is linked already")
    .action(does(async (options: LinkOptions) => (await import("./link.ts")).link(io, flags(), options)));
  program
    .command("demo")
    .description("try everything on this machine with a simulated phone")
    .option("--script", "play a short conversation and exit")
    .action(does(async (options: { script?: true }) => (await import("./demo.ts")).demo(io, flags(), options)));
  program
    .command("selftest")
    .description("break everything on this machine, and show that nothing is lost")
    .addOption(new Option("--life <url>", "the part of it that is killed").hideHelp())
    .action(
      does(async ({ life }: { life?: string }) => {
        const { selftest, selftestLife } = await import("./selftest.ts");
        return life === undefined ? selftest(io) : selftestLife(io, flags(), life);
      }),
    );
  program
    .command("send")
    .description("send a message through the running daemon")
    .argument("<to>", "a number, an account id, self, or group:<id>")
    .argument("<text>")
    .action(does(async (to: string, text: string) => (await import("./send.ts")).send(io, flags(), to, text)));
  program
    .command("reconnect")
    .description("try the line to Signal now")
    .option("--captcha <solution>", "the solved captcha that Signal asked for, beginning with signalcaptcha://")
    .action(
      does(async (options: { captcha?: string }) => (await import("./reconnect.ts")).reconnect(io, flags(), options)),
    );
}

function addLooking(program: Command, io: Io, flags: () => Flags, does: Does): void {
  program
    .command("status")
    .description("how the running daemon stands")
    .option("--json", jsonDoc)
    .action(does(async (options: Json) => (await import("./status.ts")).showStatus(io, flags(), options)));
  program
    .command("doctor")
    .description("check everything and say what to do")
    .option("--json", jsonDoc)
    .action(does(async (options: Json) => (await import("./doctor.ts")).doctor(io, flags(), options)));
  const sessions = program.command("sessions").description("the conversations with Claude");
  sessions
    .command("list", { isDefault: true })
    .description("all that are kept here, newest first")
    .option("--json", jsonDoc)
    .action(does(async (options: Json) => (await import("./sessions.ts")).listSessions(io, flags(), options)));
  sessions
    .command("show")
    .description("one conversation")
    .argument("<id>", "ours or Claude's")
    .option("--json", jsonDoc)
    .action(
      does(async (id: string, options: Json) => (await import("./sessions.ts")).showSession(io, flags(), id, options)),
    );
  sessions
    .command("sync")
    .description("compare with Claude now")
    .action(does(async () => (await import("./sessions.ts")).syncSessions(io, flags())));
  sessions
    .command("archive")
    .description("end one, here and at Claude")
    .argument("<id>", "ours or Claude's")
    .action(does(async (id: string) => (await import("./sessions.ts")).archiveSession(io, flags(), id)));
  const config = program.command("config").description("the settings");
  config
    .command("show", { isDefault: true })
    .description("what is in force, and where it was set")
    .option("--json", jsonDoc)
    .action(does(async (options: Json) => (await import("./settings.ts")).showConfig(io, flags(), options)));
  program
    .command("version")
    .description("version and commit")
    .action(does(() => (io.out(`signalman ${version} (${commit})\n`), 0)));
}

function addKeeping(program: Command, io: Io, flags: () => Flags, does: Does): void {
  const service = program.command("service").description("signalman as a service of this user (systemd, launchd)");
  const work = () => import("./service.ts");
  service
    .command("install")
    .description("write the service file, start it now and at every login")
    .action(does(async () => (await work()).installService(io, flags())));
  service
    .command("status", { isDefault: true })
    .description("whether it is installed and runs")
    .action(does(async () => (await work()).showService(io, flags())));
  service
    .command("uninstall")
    .description("stop it and remove the service file")
    .action(does(async () => (await work()).uninstallService(io, flags())));
  program
    .command("backup")
    .description("copy the database while the daemon works")
    .argument("<file>", "a new file; it will hold keys and messages")
    .action(does(async (file: string) => (await import("./backup.ts")).backup(io, flags(), file)));
  program
    .command("update")
    .description("put the newest release in the place of this binary")
    .option("--check", "only say whether there is one")
    .action(does(async (options: { check?: true }) => (await import("./update.ts")).update(io, flags(), options)));
  program
    .command("completions")
    .description("print the completions for a shell")
    .addArgument(new Argument("<shell>").choices(["bash", "zsh", "fish"]))
    .action(does(async (shell: Shell) => (io.out((await import("./completions.ts")).completions(program, shell)), 0)));
  program
    .command("man")
    .description("print the manual page, for man(1)")
    .action(does(async () => (io.out((await import("./completions.ts")).manPage(program)), 0)));
}

function addFlag(program: Command, key: SettingKey): void {
  const flag = flagOf(key);
  const { doc, fallback } = settingRow(key);
  if (flag !== null)
    program.option(flag, fallback === null || key === "system" ? doc : `${doc} (default: ${fallback})`);
}

/** A word that is no command: the near miss, and exit code 2. */
function refuse(program: Command, name: string): never {
  const near = nearest(
    name,
    program.commands.map((command) => command.name()),
  );
  return program.error(`error: unknown command '${name}'${near === null ? "" : `. Did you mean ${near}?`}`);
}
